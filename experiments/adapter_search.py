"""Search with saved adapters: the nearest items of every query, and how sure to be of it.

    python -m experiments.adapter_search --adapter FILE --images FILE --texts FILE
    python -m experiments.adapter_search --adapter FILE --images FILE --texts FILE --query image
    python -m experiments.adapter_search ... --negative-scale 10 --shift 8

Puts distributions around embeddings, ranks by their closed-form sampled distance in a flat Faiss
index of inner products, and, where the scale and the shift of a match probability are given,
orders what was found by it. Saves the distributions of both sides (mean, log_variance), the
index, the neighbours, and a page about the most and the least uncertain queries.
`probvlm_adapters` makes adapters; `probemb.serving` has Qdrant in place of Faiss.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from experiments import runs
from experiments.adapters import saved as saved_adapters
from experiments.adapters.saved import SavedAdapter
from experiments.captions.retrieval import SIDES, Side
from experiments.data import embedding_files
from experiments.data.embedding_files import Embeddings, PairedEmbeddings
from experiments.reports.tables import table
from experiments.runs import files
from probemb import search, serving

_MODULE = "experiments.adapter_search"
_SHOWN = 5
_INSTALL = '.venv/bin/pip install -e ".[serving]" -c constraints.txt'

Query = Literal["text", "image"]
"""Which side queries."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a search."""

    adapter: Path
    """The file of an adapter, from the report of `probvlm_adapters`."""
    images: Path
    """Embeddings of images, as `embedding_files` reads them; or a folder with both sides."""
    texts: Path | None = None
    """Embeddings of texts."""
    query: Query = "text"
    """Which side queries; the other is searched."""
    k: int = 10
    """How many items are found."""
    negative_scale: float | None = None
    """a of the match probability that orders what was found, where both are given."""
    shift: float | None = None
    """b of the match probability."""
    output: Path | None = None
    """A new folder for what is found. Default: results/adapter_search, or -2, -3, ..."""


def check(config: Config) -> None:
    """Refuse options that nothing can be searched with.

    Raises:
      ValueError: an option is out of range, missing, or contradicts another.
    """
    runs.check_least(config, {"k": 1})
    if config.query not in get_args(Query):
        raise ValueError(f"query must be one of {get_args(Query)}, got {config.query!r}")
    if (config.negative_scale is None) != (config.shift is None):
        raise ValueError(
            "negative_scale and shift must be given together or not at all, "
            f"got {config.negative_scale} and {config.shift}"
        )
    if config.negative_scale is not None and not 0.0 < config.negative_scale < float("inf"):
        raise ValueError(f"negative_scale must be positive, got {config.negative_scale}")
    if config.shift is not None and not np.isfinite(config.shift):
        raise ValueError(f"shift must be finite, got {config.shift}")


def _load(config: Config) -> tuple[SavedAdapter, PairedEmbeddings]:
    """The adapter and the embeddings, if they belong together."""
    saved = saved_adapters.load(config.adapter)
    paired = embedding_files.read(config.images, config.texts)
    dimension = paired.images.vectors.shape[1]
    if dimension != saved.adapter.dimension:
        raise ValueError(
            f"images must have the adapter's dimension, {saved.adapter.dimension}, got {dimension}"
        )
    model = paired.images.model
    if None not in (model, saved.embeddings) and model != saved.embeddings:
        raise ValueError(f"images must be of the adapter's model, {saved.embeddings}, got {model}")
    return saved, paired


def run(config: Config) -> dict[str, Any]:
    """Search, save what is found, and return its numbers."""
    check(config)
    try:
        import faiss
    except ImportError:
        raise ValueError(f"faiss must be installed: {_INSTALL}") from None
    output = config.output or files.free_folder("adapter_search")
    files.check_free(output)
    saved, paired = _load(config)
    sides: dict[Side, Embeddings] = {"image": paired.images, "caption": paired.texts}
    gaussians = {
        side: saved.gaussians(side, embedding_files.rows(found.vectors, np.arange(len(found.ids))))
        for side, found in sides.items()
    }
    of_query: Side = "caption" if config.query == "text" else "image"
    of_items: Side = "image" if config.query == "text" else "caption"
    queries, items = gaussians[of_query], gaussians[of_items]
    if config.k > len(items.mean):
        raise ValueError(f"k must be at most the {len(items.mean)} items, got {config.k}")
    index = serving.faiss_index(search.item_vectors(items))
    found = serving.search_faiss(index, search.query_vectors(queries), k=config.k)
    if config.negative_scale is not None and config.shift is not None:
        found = search.rerank(
            queries,
            items,
            found.indices,
            negative_scale=config.negative_scale,
            shift=config.shift,
        )
    indices = np.asarray(found.indices)
    partner_of = paired.image_of[:, None]
    images = indices if of_items == "image" else paired.image_of[indices]
    right = images == (partner_of if of_query == "caption" else np.arange(len(indices))[:, None])
    variance = np.asarray(queries.variance.sum(1))
    content = {
        "command": runs.command(
            _MODULE, config, files=("adapter", "images", "texts"), hidden=("output",)
        ),
        "queries": len(indices),
        "items": len(items.mean),
        "recall_at_1": float(right[:, 0].mean()),
        f"recall_at_{config.k}": float(right.any(1).mean()),
        "total_variance": {
            "least": float(variance.min()),
            "median": float(np.median(variance)),
            "greatest": float(variance.max()),
        },
    }
    text = _page(content, sides[of_query], sides[of_items], indices, variance)
    with files.new_folder(output) as partial:
        files.write_json(partial / "results.json", content)
        files.replace_text(partial / "results.md", text)
        for side in SIDES:
            p = jax.tree.map(np.asarray, gaussians[side]._asdict())
            arrays = {**p, "ids": sides[side].ids}
            files.save_tensors(partial / f"{side}s.safetensors", arrays)
        arrays = {
            "indices": indices,
            "scores": np.asarray(found.scores),
            "ids": sides[of_items].ids[indices],
            "query_ids": sides[of_query].ids,
            "query_total_variance": variance,
        }
        files.save_tensors(partial / "neighbors.safetensors", arrays)
        faiss.write_index(index, str(partial / "items.faiss"))
    print(f"{text}\nsaved {output}")
    return content


def _name(embeddings: Embeddings, row: int) -> str:
    if embeddings.texts is not None:
        return str(embeddings.texts[int(row)])
    return str(embeddings.ids[row])


def _page(
    content: dict[str, Any],
    queries: Embeddings,
    items: Embeddings,
    indices: np.ndarray,
    variance: np.ndarray,
) -> str:
    order = np.argsort(variance, kind="stable")
    rows = [
        [_name(queries, row), f"{variance[row]:.4g}", _name(items, indices[row, 0])]
        for row in np.concatenate([order[:_SHOWN], order[-_SHOWN:]])
    ]
    recalls = ", ".join(
        f"recall@{name.rpartition('_')[2]} {value:.3f}"
        for name, value in content.items()
        if name.startswith("recall")
    )
    return (
        f"# Search with an adapter\n\n`{content['command']}`\n\n{content['queries']:,} queries, "
        f"{content['items']:,} items: {recalls}, by the pairs of the files, the adapter's "
        f"own among them if they are there.\n\nThe most certain "
        f"queries and the least certain ones:\n\n"
        f"{table(['query', 'total variance', 'nearest'], rows)}\n"
    )


if __name__ == "__main__":
    runs.main(_MODULE, __doc__, Config, run, interrupted="interrupted, nothing was saved")
