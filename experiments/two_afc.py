"""Which of two distortions do people find closer to the original, and do metrics say the same?

    python -m experiments.two_afc --bapps FOLDER
    python -m experiments.two_afc --bapps FOLDER --weights alexnet.safetensors --heads lpips.npz
    python -m experiments.two_afc --distances lpips_alex.csv.gz

The 2AFC score of every metric on each subset of BAPPS, and the average precision of just
noticeable differences where its folder has them, with intervals over triplets, beside the human
ceiling and the published rows. BAPPS is downloaded by hand (the validation set: 1.3 GB, by
`scripts/get_dataset_valonly.sh` of richzhang/PerceptualSimilarity). Its images are 64 x 64, so that
MS-SSIM has three of its five scales. `--distances` takes what others have measured: CSV files, also
.gz, with columns subset, d0, d1 and human_prefers_p1, a row for each triplet. Those of LPIPS for
all of BAPPS are in abhijay9/ShiftTolerant-LPIPS, a file `results/alex_vanilla/twoAFC_*.csv` for
each subset, of path, d0, d1, a score and human_prefers_p1, to be joined under that header.

Distances are kept in parts: the same command again goes on where the last one was stopped.

On two CPU cores: LASI at N = 10 takes about a quarter of an hour for all 36,344 triplets, SSIM a
minute; `--limit 200` shows all of it soon.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.data import bapps
from experiments.image_metrics import choices, choices_page, deep_network, given_distances, named
from experiments.image_metrics import measured as measurement
from experiments.image_metrics.choices import Judged

QUESTION = runs.Question("experiments.two_afc", files=("bapps", "weights", "heads", "distances"))


@dataclasses.dataclass(frozen=True)
class Config(named.Options):
    """Options of the agreement with choices."""

    bapps: Path | None = None
    """The folder of BAPPS, as it was published."""
    distances: tuple[Path, ...] = ()
    """CSV files of distances that others have measured, each a metric, named after its file."""
    limit: int | None = None
    """Only the first so many triplets and pairs of each subset."""
    datasets: Path = Path("results/datasets")
    """Where BAPPS is kept once it is prepared."""


def check(config: Config) -> None:
    """Refuse options that nothing can be measured with.

    Raises:
      ValueError: an option out of range, or no judgements at all.
    """
    runs.check_least(config, {"num_resamples": 1})
    runs.check_seed(config)
    if config.limit is not None and config.limit < 2:
        raise ValueError(f"limit must be at least 2, got {config.limit}")
    if config.bapps is None and not config.distances:
        raise ValueError(
            f"name the folder of BAPPS with --bapps: {bapps.DOWNLOAD}; or with --distances CSV "
            f"files with columns {', '.join(given_distances.COLUMNS)}"
        )
    names = [given_distances.name(path) for path in config.distances]
    if len(set(names)) < len(names):
        raise ValueError(f"distances must be files of different names, got {names}")


def _given(config: Config, names: Sequence[str]) -> dict[str, dict[str, Judged]]:
    """What others have measured, by the name of the file and subset."""
    for path in config.distances if config.bapps else ():
        if given_distances.name(path) in names:
            raise ValueError(
                f"distances must be files named otherwise than the metrics of BAPPS, got {path}"
            )
    return {
        given_distances.name(path): given_distances.read(path, config.limit)
        for path in config.distances
    }


def _check_one_judgement(judged: dict[str, dict[str, Judged]]) -> None:
    """Refuse metrics that were measured on different triplets of a subset.

    Raises:
      ValueError: the judgements of a subset are others for one than for another.
    """
    seen: dict[str, tuple[str, np.ndarray]] = {}
    for name, subsets in judged.items():
        for subset, found in subsets.items():
            other, before = seen.setdefault(subset, (name, found.judgement))
            same = before.shape == found.judgement.shape
            if not same or not np.allclose(before, found.judgement, atol=1e-3):
                raise ValueError(
                    f"distances must be of the same triplets, those of {subset} differ: {other} "
                    f"has {len(before):,}, {name} {len(found.judgement):,}, or other choices"
                )


Sources = dict[bapps.Kind, dict[str, bapps.Subset]]


def _loaded(config: Config) -> Sources:
    """The subsets of every kind of judgement that are there.

    Raises:
      ValueError: metrics are asked for, and no images.
    """
    if config.bapps is None:
        for name in ("metrics", "weights"):
            if value := getattr(config, name):
                raise ValueError(f"{name} need images: add --bapps FOLDER, got {value}")
        return {}
    kinds = bapps.present(config.bapps)
    return {kind: bapps.load(config.bapps, config.datasets, kind=kind) for kind in kinds}


def _measured(
    config: Config,
    folder: Path,
    names: Sequence[str],
    network: deep_network.Network | None,
    sources: Sources,
) -> dict[bapps.Kind, dict[str, dict[str, Judged]]]:
    """Distances and judgements by kind of judgement, metric and subset."""
    found: dict[bapps.Kind, dict[str, dict[str, Judged]]] = {}
    for kind, subsets in sources.items():
        found[kind] = {name: {} for name in names}
        for subset, source in subsets.items():
            first = measurement.First(source, config.limit)
            place, title = folder / "distances" / kind / subset, f"{kind}, {subset}"
            of_each = measurement.of_metrics(place, names, network, first, title=title)
            for name, distances in of_each.items():
                found[kind][name][subset] = Judged(distances, source.judgements[: len(first)])
    return found


def run(config: Config) -> dict[str, Any]:
    """Measure what is not there yet, save the report, and return its numbers."""
    check(config)
    network = deep_network.load(config.weights, config.heads)
    names = named.chosen(config, network)
    named.check_size(names if config.bapps else (), network, (bapps.SIDE, bapps.SIDE))
    options = runs.options(config, without=("datasets", "output"))
    given = _given(config, names)
    _check_one_judgement(given)
    sources = _loaded(config)
    options |= {"metrics": list(names), **named.digests(config)}
    options["contents"] = [
        source.contents for subsets in sources.values() for source in subsets.values()
    ]
    options["distances"] = {
        given_distances.name(path): named.digest(path) for path in config.distances
    }
    this = QUESTION.run(config, config, options)
    if (content := this.earlier()) is not None:
        return content
    of_bapps = {
        subset: Judged(np.empty((0, 2)), source.judgements[: config.limit])
        for subset, source in sources.get("2afc", {}).items()
    }
    _check_one_judgement({"BAPPS": of_bapps, **given})
    this.begin()
    measured = _measured(config, this.folder, names, network, sources)
    of_choices = {**measured.get("2afc", {}), **given}
    of_differences = measured.get("jnd", {})
    resampling = {"num_resamples": config.num_resamples, "seed": config.seed}
    scores = choices.numbers(of_choices, of_differences, **resampling)
    titles = {name: named.title(name, network, (bapps.SIDE, bapps.SIDE)) for name in names}
    content = {
        **this.head(choices.described(of_choices, of_differences)),
        "titles": titles | {name: f"{name}, as given" for name in given},
        **choices.content(scores),
    }

    def draw(partial: Path) -> None:
        if of_choices:
            choices_page.draw(partial / "two_afc.png", content, scores)

    return this.save(content, choices_page.markdown(content, scores), draw)


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
