"""Output folders that appear whole or not at all, and never replace another."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.numpy


def free_folder(name: str) -> Path:
    """results/<name>, or results/<name>-2, -3, ... where that exists."""
    folder, count = Path("results") / name, 1
    while folder.exists():
        count += 1
        folder = folder.with_name(f"{name}-{count}")
    return folder


def check_free(folder: Path) -> None:
    """Refuse a folder that exists, before any work is done."""
    if folder.exists():
        raise ValueError(f"output must be a new folder, {folder} exists already")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error.

    Raises:
      ValueError: `folder` exists, or cannot be made where it should be.
    """
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ValueError(
            f"output must be a place for a new folder, got {folder}: {error}"
        ) from None
    try:
        yield temporary
        temporary.chmod(0o755)
        check_free(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Indented, strict JSON (no NaN, no infinity)."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def partial(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f".{path.name}.partial")


def replace_text(path: Path, text: str) -> None:
    """Write a file whole, in place of the one that is there."""
    temporary = partial(path)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def save_tensors(
    path: Path, arrays: dict[str, Any], metadata: dict[str, str] | None = None
) -> None:
    """Write a .safetensors file whole, in place of the one that is there, as readable as others."""
    temporary = partial(path)
    safetensors.numpy.save_file(arrays, temporary, metadata)
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # which the library leaves to the owner alone
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """A value of a configuration as JSON has it: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
