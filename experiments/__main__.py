"""The questions, with how long each takes.

python -m experiments
"""

import ast
from pathlib import Path

QUESTIONS: dict[str, dict[str, str]] = {
    "What LASI sees": {
        "compare_images": "1 min",
        "competition": "3 min",
        "two_afc": "15 min; needs BAPPS",
        "mos_agreement": "4 min",
        "lasi_ablation": "25 min",
        "convert_weights": "1 min; needs torch, torchvision and lpips",
    },
    "Hedged instance embeddings": {"hedged_digits": "12 min"},
    "Images and captions": {
        "digit_captions": "40 min",
        "caption_settings": "90 min",
        "photograph_captions": "needs photographs or features",
        "coco_retrieval": "1 min; needs scores",
    },
    "Frozen embeddings": {
        "probvlm_adapters": "10 min",
        "adapter_search": "1 min; needs a saved adapter",
        "active_learning": "15 min",
        "model_selection": "15 min",
        "extract_embeddings": "a script of its own; needs photographs",
    },
    "Cost and exactness": {
        "lasi_speed": "4 min",
        "loss_speed": "3 min",
        "search_speed": "1 min",
        "match_probability": "2 min",
    },
}
"""Family -> question -> its time on two CPU cores with defaults, and what it needs."""


def first_line(question: str) -> str:
    """What a question asks: the first line of its docstring, read and not imported."""
    source = Path(__file__).with_name(f"{question}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main() -> None:
    """Print every question by its family."""
    print("python -m experiments.<question>; --help lists its options. Times: two CPU cores.")
    for family, questions in QUESTIONS.items():
        print(f"\n{family}")
        for question, time in questions.items():
            print(f"  {question} ({time})\n    {first_line(question)}")


if __name__ == "__main__":
    main()
