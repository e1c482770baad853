"""What README and docs show: links lead somewhere, blocks of Python run."""

import json
import re
from pathlib import Path
from unittest import mock

import pytest

from experiments.captions.methods import METHODS
from experiments.image_metrics.named import METRICS
from experiments.uncertainty.baselines import BASELINES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ANSWERS = sorted((ROOT / "experiments" / "answers").glob("*.md"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", *ANSWERS], ids=lambda p: p.name)
def test_links_within_the_project_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@mock.patch.dict(METHODS)  # docs/extend.md adds to these tables
@mock.patch.dict(BASELINES)
@mock.patch.dict(METRICS)
def test_blocks_of_python_run(page):
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_and_its_script_are_the_same(notebook):
    import jupytext  # of the extra `notebooks`

    of_notebook, of_script = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (notebook, notebook.with_suffix(".py"))
    )
    assert of_notebook == of_script


def test_notebooks_are_kept_without_outputs():
    """A change of theirs then shows as text; the site shows them executed."""
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        assert not [cell for cell in cells if cell.get("outputs")], notebook.name
