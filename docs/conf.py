"""The docs site: the project's own pages, notebooks and docstrings, where they lie.

From the root: .venv/bin/sphinx-build -W --keep-going -c docs . docs/_build/html
"""

import importlib
import inspect
import re
from pathlib import Path

from docutils import nodes

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "lasi-probemb"
author = copyright = "The lasi-probemb authors"

# The source is the whole project, so that links between files are the same here as in a clone.
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "experiments/answers/*.md",
    "notebooks/*.ipynb",
]
exclude_patterns = [".*", "docs/_build", "docs/contents.md", "results"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# --- Markdown and notebooks ---------------------------------------------------------------------

smartquotes = False  # --option is no dash
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / ".jupyter_cache")
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 1800
nb_merge_streams = True

# --- docstrings ---------------------------------------------------------------------------------

add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
toc_object_entries_show_parents = "hide"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Number")}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "py:obj"

# --- looks --------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}
html_static_path = ["site.css"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
html_copy_source = False
html_show_sphinx = False


# In a docstring `name` is code and all else is plain text: |x - y| and 2 * x mean what they say.
_MARKUP = re.compile(r"[*|]|_(?!\w)")


def _plain_text(app, what, name, thing, options, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup, but in code and examples."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = line.split("`")
        parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
        parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # `Code`s
        lines[number] = "`".join(parts)


def _aliases(app, what, name, thing, options, signature: str | None, returned: str | None):
    """The names of types in `autodoc_type_aliases`, also where None is the alternative."""
    plain = (
        re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text or "")
        for text in (signature, returned)
    )
    return tuple(text or None for text in plain)


def _dash(app, doctree) -> None:
    """The dash between an argument and what it is; `smartquotes` would change --option too."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def _link_pictures(app, doctree) -> None:
    """A click on a picture opens the whole of it: Sphinx links those with a width."""
    for image in doctree.findall(nodes.image):
        image["width"] = "100%"


def _skip(app, what, name, thing, skipped, options) -> bool | None:
    """The fields of a named tuple are told in its docstring."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def _rooms(package: str) -> dict[str, dict[str, str]]:
    """Room -> module -> what it holds, from the tree in the package's docstring.

    A module at the top of the package is a room of its own.
    """
    rooms: dict[str, dict[str, str]] = {}
    room = ""
    tree = re.findall(r"^    (    )?([a-z_]+)(?: +(.*))?$", _package_docstring(package), re.M)
    for indent, name, held in tree:
        room = room if indent else name
        modules = rooms.setdefault(room, {})
        if held:
            modules[f"{package}.{room}.{name}" if indent else f"{package}.{name}"] = held
    # What users call comes first.
    public = _public(package)
    return dict(sorted(rooms.items(), key=lambda room: public.isdisjoint(room[1])))


def _package_docstring(package: str) -> str:
    return inspect.getdoc(importlib.import_module(package)) or ""


def _public(package: str) -> set[str]:
    """The modules that public names come from."""
    shown = [value for _, value in inspect.getmembers(importlib.import_module(package))]
    named = [value for value in shown if hasattr(value, "__module__") or inspect.ismodule(value)]
    rooms = [getattr(value, name) for value in named for name in getattr(value, "__all__", ())]
    return {
        value.__name__ if inspect.ismodule(value) else value.__module__
        for value in [*named, *rooms]
    }


def _room_page(package: str, room: str, modules: dict[str, str]) -> str:
    """A page with what every module of a room defines."""
    public = _public(package)
    lines = [f"# {package}.{room}"]
    for module in sorted(modules, key=lambda module: module not in public):
        if module != f"{package}.{room}":
            lines += ["", f"## {module}"]
        if module not in public:
            lines += ["", "Serves the other modules, and may change without notice."]
        lines += ["", f"```{{eval-rst}}\n.. automodule:: {module}\n```"]
    return "\n".join([*lines, ""])


def _package_page(package: str, rooms: dict[str, dict[str, str]]) -> str:
    """A page with the rooms of a package and its public names."""
    summary = _package_docstring(package).partition("\n")[0]
    names = sorted(importlib.import_module(package).__all__)
    lines = [f"# {package}", "", summary, "", "| module | holds |", "| --- | --- |"]
    lines += [
        f"| [`{module.removeprefix(package + '.')}`]({package}/{room}.md) | {held} |"
        for room, modules in rooms.items()
        for module, held in modules.items()
    ]
    lines += ["", f"`import {package}` is enough for these names:", ""]
    lines += [", ".join(f"{{py:obj}}`{name} <{_defined(package, name)}>`" for name in names), ""]
    return "\n".join(
        [*lines, "```{toctree}", ":hidden:", *[f"{package}/{r}" for r in rooms], "```"]
    )


def _defined(package: str, name: str) -> str:
    """Where a public name is documented."""
    value = getattr(importlib.import_module(package), name)
    return value.__name__ if inspect.ismodule(value) else f"{value.__module__}.{value.__name__}"


def _write_reference(app) -> None:
    """A page for each package and for each of its rooms; what has not changed is not rebuilt."""
    for package in ("lasi_jax", "probemb"):
        rooms = _rooms(package)
        pages = {f"{package}/{room}": _room_page(package, room, rooms[room]) for room in rooms}
        pages[package] = _package_page(package, rooms)
        for page, text in pages.items():
            path = DOCS / "api" / f"{page}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text("utf-8") != text:
                path.write_text(text, "utf-8")


def _append_contents(app, name: str, source: list[str]) -> None:
    """The README is the front page; what the sidebar lists is added to it here."""
    if name == root_doc:
        source[0] += "\n" + (DOCS / "contents.md").read_text("utf-8")


def _open_with_readme(app, failed) -> None:
    """The address of the site's folder opens the front page."""
    if failed is None and app.builder.format == "html":
        refresh = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(f"<!doctype html>{refresh}\n", "utf-8")


def setup(app) -> None:
    """Connect the above."""
    app.connect("builder-inited", _write_reference)
    app.connect("source-read", _append_contents)
    app.connect("build-finished", _open_with_readme)
    app.connect("autodoc-process-docstring", _plain_text, priority=100)
    app.connect("autodoc-process-signature", _aliases)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _dash)
    app.connect("doctree-read", _link_pictures)
