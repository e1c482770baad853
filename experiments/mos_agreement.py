"""How well do image metrics agree with the opinions of people?

    python -m experiments.mos_agreement
    python -m experiments.mos_agreement --tid2013 FOLDER --kadid10k FOLDER
    python -m experiments.mos_agreement --photographs FOLDER --weights alexnet.safetensors

With TID2013 or KADID-10k, which are downloaded by hand and named by their folders, every metric
is held against the mean opinion scores: SRCC, KRCC, and PLCC after a logistic fit, with intervals
over the reference images. Without them nobody's opinion is at hand: metrics are held against the
order of severity of twelve kinds of distortion (`graded_squares`), of scikit-image's photographs or
of one's own; files in the folder that cannot be read or are too small are left out and named. That
is no human agreement; it finds the kinds that a metric does not see, and whether its values mean
the same from one photograph to the next.

The distances are kept in parts: the same command again goes on where the last one was stopped.

On two CPU cores: about three minutes by default. Expected there: within one photograph, LASI puts
the levels of nearly every kind in order.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import runs
from experiments.data import graded_squares, opinion_scores, photographs
from experiments.image_metrics import deep_network, named, opinions, opinions_page
from experiments.image_metrics import measured as measurement

QUESTION = runs.Question(
    "experiments.mos_agreement", files=("tid2013", "kadid10k", "photographs", "weights", "heads")
)


@dataclasses.dataclass(frozen=True)
class Config(named.Options):
    """Options of the agreement with opinions."""

    tid2013: Path | None = None
    """The folder of TID2013, as it was published."""
    kadid10k: Path | None = None
    """The folder of KADID-10k, as it was published."""
    photographs: Path | None = None
    """A folder of photographs to distort. Default: those that come with scikit-image."""
    size: int = 128
    """The side of the four squares of each photograph, in pixels."""
    datasets: Path = Path("results/datasets")
    """Where judged sets are kept once they are prepared."""


def check(config: Config) -> None:
    """Refuse options that nothing can be measured with.

    Raises:
      ValueError: an option out of range, or photographs beside a judged set.
    """
    runs.check_least(config, {"num_resamples": 1, "size": 16})
    runs.check_seed(config)
    if config.photographs is not None and (config.tid2013 or config.kadid10k):
        raise ValueError(
            "photographs are distorted only where no judged set is named, "
            f"got {config.photographs} too"
        )


def _squares(config: Config) -> graded_squares.Squares:
    """What is distorted, where no opinions are named."""
    given = config.photographs
    images = photographs.in_folder(given) if given else graded_squares.bundled()
    if len(images) < 2:
        raise ValueError(f"photographs must be two at least, {given} has {len(images)}")
    large = {name: x for name, x in images.items() if min(x.shape[:2]) >= config.size}
    if len(large) >= 2:  # otherwise it is the size that does not fit
        for name in [name for name in images if name not in large]:
            height, width, _ = images[name].shape
            print(f"left out: {name} is {width} x {height}, size is {config.size} pixels a side")
        images = large
    return graded_squares.graded(images, size=config.size, seed=config.seed)


def _judged(config: Config) -> dict[opinion_scores.Name, opinion_scores.Scored]:
    """The judged sets that are named."""
    places: dict[opinion_scores.Name, Path | None] = {
        "tid2013": config.tid2013,
        "kadid10k": config.kadid10k,
    }
    return {
        name: opinion_scores.load(name, place, config.datasets)
        for name, place in places.items()
        if place is not None
    }


def _described(
    judged: dict[opinion_scores.Name, opinion_scores.Scored], squares: graded_squares.Squares | None
) -> str:
    if squares:
        count, kinds, levels, side = squares.distorted.shape[:4]
        return (
            f"{count} squares of {side} pixels a side of {len(set(squares.photographs))} "
            f"photographs, {kinds} kinds of distortion at {levels} levels"
        )
    counts = {opinion_scores.TITLES[name]: len(scored) for name, scored in judged.items()}
    return ", ".join(f"{title} ({count:,} images)" for title, count in counts.items())


def _opinions(scored: opinion_scores.Scored) -> opinions.Opinions:
    return opinions.Opinions(scored.opinion, scored.kind, scored.reference)


def run(config: Config) -> dict[str, Any]:
    """Measure what is not there yet, save the report, and return its numbers."""
    check(config)
    network = deep_network.load(config.weights, config.heads)
    names = named.chosen(config, network)
    options = runs.options(config, without=("datasets", "output"))
    options |= {"metrics": list(names), **named.digests(config)}
    judged = _judged(config)
    squares = None if judged else _squares(config)
    sources = {"severity": squares} if squares else judged
    options["contents"] = [source.contents for source in sources.values()]
    this = QUESTION.run(config, config, options)
    if (content := this.earlier()) is not None:
        return content
    size = (0, 0)
    for source in sources.values():
        size = measurement.size_of(source)
        named.check_size(names, network, size)
    data = _described(judged, squares)
    this.begin(data)
    resampling = {"num_resamples": config.num_resamples, "seed": config.seed}
    measured = {}
    for name, source in sources.items():
        place = this.folder / "distances" / name
        of_each = measurement.of_metrics(place, names, network, source, title=name)
        measured[name] = {metric: values[:, 0] for metric, values in of_each.items()}
    sets, described = {}, []
    for name, scored in judged.items():
        kinds = opinion_scores.KINDS[name]
        found = opinions.of_opinions(measured[name], _opinions(scored), kinds, **resampling)
        sets[opinion_scores.TITLES[name]] = found
        head = {"set": name, "title": opinion_scores.TITLES[name]}
        described.append({**head, **found.content()})
    if squares:
        by_level = {name: squares.by_level(x) for name, x in measured["severity"].items()}
        found = opinions.of_severity(by_level, squares.photographs, **resampling)
        sets["severity"] = found
        described.append({"set": "severity", **found.content()})
    titles = {name: named.title(name, network, size) for name in names}
    content = {**this.head(data), "human": bool(judged), "titles": titles, "sets": described}

    def draw(partial: Path) -> None:
        for name, scored in judged.items():
            title, values = opinion_scores.TITLES[name], measured[name]
            opinions_page.draw_opinions(
                partial / f"{name}.png", title, sets[title], titles, values, _opinions(scored)
            )
        if squares:
            opinions_page.draw_severity(partial / "severity.png", sets["severity"], titles)

    return this.save(content, opinions_page.markdown(content, sets), draw)


if __name__ == "__main__":
    QUESTION.main(__doc__, Config, run)
