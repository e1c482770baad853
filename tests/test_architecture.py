"""The shape of the house: imports flow one way, the public face is complete."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import lasi_jax
import probemb
from experiments.__main__ import QUESTIONS, first_line, main

ROOT = Path(__file__).parents[1]
PACKAGES = {"lasi_jax": lasi_jax, "probemb": probemb}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, `from a import b` as both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_leaves(package):
    others = {"lasi_jax", "probemb", "experiments", "notebooks", "tests"} - {package}
    for path in (ROOT / package).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & others, path


def modules_of(package: str) -> list[str]:
    """The modules in the order of the package's docstring: a room in a line, its own below it."""
    rows = re.findall(r"^    (    )?([a-z_0-9]+)(  .*)?$", PACKAGES[package].__doc__, re.M)
    modules, room = [], ""
    for inside, name, described in rows:
        room = room if inside else "" if described else f"{name}."
        modules += [f"{room}{name}"] if described else []
    return modules


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_flow_down_the_order_in_the_docstring(package):
    order, root = modules_of(package), ROOT / package
    files = {path.relative_to(root).with_suffix("") for path in root.rglob("*.py")}
    assert set(order) == {".".join(path.parts) for path in files if path.stem != "__init__"}
    for place, module in enumerate(order):
        below = {f"{package}.{later}" for later in order[place:]}
        assert not imports_of(root / f"{module.replace('.', '/')}.py") & below, module


# What a room of a package may import from, beside itself: modules at its top by their names.
PACKAGE_ROOMS = {
    "lasi_jax": {
        "native": set(),
        "wls": {"batching", "native"},
        "metrics": {"images", "means"},
        "judging": set(),
        "probing": {"images", "batching"},
        "networks": {"images"},
    },
    "probemb": {
        "numerics": set(),
        "distributions": {"numerics"},
        "pairs": {"numerics", "distributions"},
        "losses": {"numerics", "distributions", "pairs"},
        "judging": {"numerics"},
    },
}


@pytest.mark.parametrize(
    ("package", "room"), [(name, room) for name, rooms in PACKAGE_ROOMS.items() for room in rooms]
)
def test_rooms_of_a_package_import_downwards(package, room):
    for path in (ROOT / package / room).glob("*.py"):
        parts = [name.split(".") for name in imports_of(path)]
        seen = {name[1] for name in parts if name[0] == package and len(name) > 1}
        assert seen <= PACKAGE_ROOMS[package][room] | {room}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_a_room(package):
    folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert folders == set(PACKAGE_ROOMS[package])


# A room of `experiments`, and the rooms that it may import from beside the packages.
ROOMS = {
    "adapters": {"captions", "data", "reports", "runs", "uncertainty"},
    "captions": {"towers", "data", "reports", "runs", "uncertainty"},
    "hedging": {"towers", "data", "reports", "runs", "uncertainty"},
    "image_metrics": {"data", "reports", "runs"},
    "towers": {"data"},
    "data": {"runs"},
    "reports": set(),
    "runs": set(),
    "uncertainty": set(),
}
EXPERIMENTS = ROOT / "experiments"
ASKED = {path.stem for path in EXPERIMENTS.glob("*.py")} - {"__init__", "__main__"}


def rooms_of(path: Path) -> set[str]:
    """The rooms and questions of `experiments` that a file imports."""
    parts = [name.split(".") for name in imports_of(path)]
    return {name[1] for name in parts if name[0] == "experiments" and len(name) > 1}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_experiments_import_downwards(room):
    for path in (EXPERIMENTS / room).glob("*.py"):
        assert rooms_of(path) <= ROOMS[room] | {room}, path


@pytest.mark.parametrize("question", sorted(ASKED))
def test_a_question_is_never_imported(question):
    assert rooms_of(EXPERIMENTS / f"{question}.py") <= set(ROOMS)


def test_every_folder_is_a_room_and_every_question_is_listed():
    folders = {path.parent.name for path in EXPERIMENTS.glob("*/*.py")}
    assert folders == set(ROOMS)
    listed = [question for family in QUESTIONS.values() for question in family]
    assert sorted(listed) == sorted(ASKED)


def test_python_m_experiments_lists_what_every_question_asks(capsys):
    main()
    printed = capsys.readouterr().out
    for question in ASKED:
        assert f"{question} (" in printed and first_line(question) in printed


@pytest.mark.parametrize("part", ["lasi_jax", "probemb", "experiments"])
def test_tests_in_rooms_mirror_them(part):
    tests = ROOT / "tests" / part
    for path in tests.glob("*/test_*.py"):
        tested = path.relative_to(tests).with_name(f"{path.stem.removeprefix('test_')}.py")
        assert (ROOT / part / tested).exists(), path


def public_functions():
    for package in PACKAGES.values():
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value):
                yield value
            elif inspect.ismodule(value):
                yield from (
                    function
                    for part, function in inspect.getmembers(value, inspect.isfunction)
                    if not part.startswith("_")
                    and (
                        function.__module__ == value.__name__
                        or part in vars(value).get("__all__", ())
                    )
                )


ARRAYS = {
    *("image", "x", "y", "p", "q", "text", "points", "target", "match", "partner", "own_share"),
    *("image_samples", "text_samples", "image_embedding", "text_embedding", "embedding"),
    *("masked_image", "masked_text", "loss", "mesh"),
    *("uncertainty", "correct", "error", "probability", "statistic", "ambiguity"),
    *("central_probability", "state", "distance", "distance_0", "distance_1", "preference", "same"),
    *("score", "opinion"),
    *("scores", "positives", "query_labels", "item_labels", "indices", "queries", "items"),
}


@pytest.mark.parametrize(
    "function", list(public_functions()), ids=lambda f: f"{f.__module__}.{f.__name__}"
)
def test_public_functions_are_documented_and_keyword_only(function):
    for part in ("Args:", "Returns:", "Raises:", "Source:", "Example:", ">>>"):
        assert part in function.__doc__, part
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert "key" not in positional[1:]
    assert set(positional) <= ARRAYS | {"key"}
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        assert option.name in function.__doc__, option.name
    if function.__module__.startswith("lasi_jax") and "agreement" not in function.__module__:
        assert positional in (["image"], ["x", "y"], ["x", "state"])


@pytest.mark.parametrize(
    "name", ["DiagonalGaussian", "GaussianMixture", "GeneralizedGaussian", "VonMisesFisher"]
)
def test_distributions_share_one_vocabulary(name):
    distribution = getattr(probemb, name)
    for word in ("mean", "variance", "sample", "log_prob"):
        assert hasattr(distribution, word), word
    assert list(inspect.signature(distribution.sample).parameters)[:3] == ["self", "key", "shape"]
