"""The shape of the house: imports flow one way, the public face is complete."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import lasi_jax
import probemb

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
    for path in (ROOT / package).glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & others, path


def test_imports_flow_down_the_order_in_the_docstring():
    order = re.findall(r"^    (\w+)  ", lasi_jax.__doc__, re.M)
    files = {path.stem for path in (ROOT / "lasi_jax").glob("*.py")} - {"__init__"}
    assert set(order) == files
    for place, module in enumerate(order):
        below = {f"lasi_jax.{later}" for later in order[place:]}
        assert not imports_of(ROOT / "lasi_jax" / f"{module}.py") & below, module


@pytest.mark.parametrize("name", lasi_jax.__all__)
def test_public_functions_are_documented_and_keyword_only(name):
    function = getattr(lasi_jax, name)
    for part in ("Args:", "Returns:", "Raises:", "Source:", "Example:", ">>>"):
        assert part in function.__doc__, part
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional in (["image"], ["x", "y"])
