"""Which of two distortions do people find closer to the original, and do metrics say the same?

    python -m experiments.two_afc --bapps FOLDER
    python -m experiments.two_afc --bapps FOLDER --weights alexnet.safetensors --heads lpips.npz
    python -m experiments.two_afc --distances lpips_alex.csv.gz

The 2AFC score of every metric on each subset of BAPPS, and the average precision of just
noticeable differences where its folder has them, with intervals over triplets, beside the human
ceiling and the published rows. BAPPS is downloaded by hand (the validation set: 1.3 GB, by
`scripts/get_dataset_valonly.sh` of richzhang/PerceptualSimilarity). Its images are 64 x 64, so that
MS-SSIM has three of its five scales. `--distances` takes what others have measured: CSV files, also
.gz, with columns subset, d0, d1 and human_prefers_p1, a row for each triplet.

Distances are kept in parts: the same command again goes on where the last one was stopped.

On two CPU cores: LASI at N = 10 takes about a quarter of an hour for all 36,344 triplets, SSIM a
minute; `--limit 200` shows all of it soon.
"""

import csv
import dataclasses
import gzip
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import bapps, data_sets, image_metrics, measurement, runs, two_afc_report
from experiments.two_afc_report import Judged

_MODULE = "experiments.two_afc"
_FILES = ("bapps", "weights", "heads", "distances")
_COLUMNS = ("subset", "d0", "d1", "human_prefers_p1")


@dataclasses.dataclass(frozen=True)
class Config(image_metrics.Options):
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
    runs.check_least(config, {"num_resamples": 1, "seed": 0})
    if config.limit is not None and config.limit < 2:
        raise ValueError(f"limit must be at least 2, got {config.limit}")
    if config.bapps is None and not config.distances:
        raise ValueError(f"name the folder of BAPPS with --bapps: {bapps.DOWNLOAD}")
    names = [_name(path) for path in config.distances]
    if len(set(names)) < len(names):
        raise ValueError(f"distances must be files of different names, got {names}")


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def measured_by_others(path: Path, limit: int | None) -> dict[str, Judged]:
    """The distances and choices in a CSV file, by subset.

    Raises:
      ValueError: no such file, another format, what is no number, or too few triplets.
    """
    if not path.is_file():
        raise ValueError(f"distances must be CSV files, {path} is no file")
    try:
        found = _read(path)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise ValueError(
            f"{path} must be a CSV file with columns {', '.join(_COLUMNS)}: {error}"
        ) from None
    counts = {subset: len(values) for subset, values in found.items()}
    if min(counts.values(), default=0) < 2:
        raise ValueError(f"{path} must hold at least two triplets of each subset, it has {counts}")
    judged = {name: np.array(values[:limit]) for name, values in found.items()}
    return {name: Judged(values[:, :2], values[:, 2]) for name, values in judged.items()}


def _read(path: Path) -> dict[str, list[list[float]]]:
    """d0, d1 and the preference of each row, by subset."""
    opened = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig")
    found: dict[str, list[list[float]]] = {}
    with opened as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"columns {', '.join(missing)} are missing")
        for row in rows:
            subset, *texts = (row[name] or "" for name in _COLUMNS)
            if (values := _numbers(texts)) is None:
                raise ValueError(
                    "d0 and d1 must be finite numbers and human_prefers_p1 one from 0 to 1, "
                    f"line {rows.line_num} has {texts}"
                )
            found.setdefault(subset, []).append(values)
    return found


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return None
    return values if np.isfinite(values).all() and 0.0 <= values[2] <= 1.0 else None


def _given(config: Config, names: Sequence[str]) -> dict[str, dict[str, Judged]]:
    """What others have measured, by the name of the file and subset."""
    for path in config.distances if config.bapps else ():
        if _name(path) in names:
            raise ValueError(
                f"distances must be files named otherwise than the metrics of BAPPS, got {path}"
            )
    return {_name(path): measured_by_others(path, config.limit) for path in config.distances}


def _measured(
    config: Config, folder: Path, names: Sequence[str], network: image_metrics.Network | None
) -> dict[bapps.Kind, dict[str, dict[str, Judged]]]:
    """Distances and judgements by kind of judgement, metric and subset."""
    if config.bapps is None:
        return {}
    found: dict[bapps.Kind, dict[str, dict[str, Judged]]] = {}
    for kind in bapps.present(config.bapps):
        sources = bapps.load(config.bapps, config.datasets, kind=kind)
        found[kind] = {name: {} for name in names}
        for name in names:
            function = image_metrics.metric(name, network)
            for subset, source in sources.items():
                place = folder / "distances" / kind / subset / name
                title = f"{kind}, {subset}, {image_metrics.title(name, network)}"
                first = measurement.First(source, config.limit)
                distances = measurement.distances(place, function, first, title=title)
                found[kind][name][subset] = Judged(distances, source.judgements[: len(first)])
    return found


def run(config: Config) -> dict[str, Any]:
    """Measure what is not there yet, save the report, and return its numbers."""
    started = time.perf_counter()
    check(config)
    network = image_metrics.network(config.weights, config.heads)
    names = image_metrics.chosen(config, network)
    asked_for = runs.command(_MODULE, config, files=_FILES, hidden=("datasets", "output"))
    options = runs.options(config, without=("datasets", "output"))
    given = _given(config, names)
    options |= {"metrics": list(names), **image_metrics.digests(config)}
    options["contents"] = config.bapps and data_sets.digest(config.bapps)
    options["distances"] = {_name(path): image_metrics.digest(path) for path in config.distances}
    folder = config.output or runs.folder_of("two_afc", options)
    if (content := runs.earlier(folder, options)) is not None:
        return content
    runs.begin(folder, options)
    print(f"in {folder}", flush=True)
    measured = _measured(config, folder, names, network)
    choices, differences = {**measured.get("2afc", {}), **given}, measured.get("jnd", {})
    titles = {name: image_metrics.title(name, network) for name in names}
    titles["ms_ssim"] = f"MS-SSIM, {image_metrics.scales((bapps.SIDE,) * 2)} scales"
    content = {
        **runs.head(asked_for, options, two_afc_report.described(choices, differences)),
        "titles": titles | {name: f"{name}, as given" for name in given},
        **two_afc_report.numbers(
            choices,
            differences,
            num_resamples=config.num_resamples,
            seed=config.seed,
        ),
    }

    def draw(partial: Path) -> None:
        if choices:
            two_afc_report.draw(partial / "two_afc.png", content)

    runs.save_report(
        folder,
        content,
        two_afc_report.markdown(content),
        draw,
    )
    print(f"this call took {time.perf_counter() - started:.0f} s")
    return content


if __name__ == "__main__":
    runs.main(_MODULE, __doc__, Config, run)
