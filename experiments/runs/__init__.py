"""A run of an experiment is a folder: its options, its trainings, its report.

A question is a frozen dataclass `Config` of options, and a function that answers it. Its folder
is named after the options; the same command finds it again, goes on where it was stopped,
and shows the report of what is complete:

    this = QUESTION.run(asked, config, options)
    if (content := this.earlier()) is not None:
        return content
    ...
    this.begin(data)
    ...
    return this.save(content, text, draw)
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.runs.files import new_folder, partial, plain, replace_text, write_json

_CONFIG = "config.json"


def check_least(config: Any, least: dict[str, int]) -> None:
    """Refuse numbers below the least that makes sense.

    Raises:
      ValueError: an option is.
    """
    for name, value in least.items():
        found = getattr(config, name)
        for number in found if isinstance(found, tuple) else (found,):
            if number < value:
                raise ValueError(f"{name} must be at least {value}, got {number}")


def check_choices(config: Any, name: str, known: Collection[str] | None = None) -> None:
    """Refuse a list that is empty, names something twice, or what is not known.

    Args:
      config: the options.
      name: of the one that is the list.
      known: what it may name; default: anything.

    Raises:
      ValueError: it is such a list.
    """
    values = getattr(config, name)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be at least one and all different, got {values}")
    for value in values:
        if known is not None and value not in known:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {value!r}")


def check_seed(config: Any, name: str = "seed") -> None:
    """Refuse seeds that no random key can be made of.

    Raises:
      ValueError: one is beyond 32 bits.
    """
    found = getattr(config, name)
    for seed in found if isinstance(found, tuple) else (found,):
        if not 0 <= seed < 2**32:
            raise ValueError(f"{name} must lie in 0..2^32 - 1, got {seed}")


def check_training(config: Any) -> None:
    """Refuse seeds or a learning rate that nothing can be trained with.

    Raises:
      ValueError: an option is out of range.
    """
    check_choices(config, "seeds")
    check_seed(config, "seeds")
    if config.learning_rate is not None and not 0.0 < config.learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive, got {config.learning_rate}")


def shortened(config: Any, toy: dict[str, Any]) -> Any:
    """The configuration with the values of a toy run for options left at their default."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    left = {name: toy[name] for name in toy if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **left)


def options(config: Any, *, without: Collection[str]) -> dict[str, Any]:
    """The options that numbers depend on, as JSON has them."""
    every = plain(dataclasses.asdict(config))
    return {name: value for name, value in every.items() if name not in without}


def folder_of(name: str, options: dict[str, Any]) -> Path:
    """The default folder of a run, named after what it is and all its options."""
    digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]
    return Path("results") / f"{name}-{digest}"


def command(module: str, config: Any, *, files: Collection[str], hidden: Collection[str]) -> str:
    """The command of a configuration, without what is at its default.

    Args:
      module: such as "experiments.hedged_digits".
      config: as it was given.
      files: options that say where something lies on this machine: shown as FOLDER or FILE.
      hidden: options that are not shown.
    """
    words = ["python", "-m", module]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in hidden:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        values = value if isinstance(value, tuple) else (value,)
        if field.name in files:
            words += ["FILE" if Path(each).suffix else "FOLDER" for each in values]
        elif not isinstance(value, bool):
            words += map(str, values)
    return shlex.join(words)


def check_folder(folder: Path, options: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or a run with other options.

    Raises:
      ValueError: it does.
    """
    path = folder / _CONFIG
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder, {folder} is a file")
    if path.exists():
        try:
            before = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        for name, now in options.items():
            if before.get(name) != now:
                raise ValueError(
                    f"output must be a new folder or a run with the same options, {folder} has "
                    f"{name} = {before.get(name)!r}, now it is {now!r}"
                )
    elif folder.exists() and any(other != partial(path) for other in folder.iterdir()):
        raise ValueError(f"output must be a new folder or a run's, {folder} is neither")


def report_of(folder: Path) -> Path:
    """Where a run has its report when it is complete."""
    return folder / "report"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a question, whole or begun.

    Attributes:
      command: as it was asked for.
      options: all that its numbers depend on, as JSON has them.
      folder: where it lives.
      started: when this call began, by `time.perf_counter`.
    """

    command: str
    options: dict[str, Any]
    folder: Path
    started: float = dataclasses.field(default_factory=time.perf_counter)

    def earlier(self) -> dict[str, Any] | None:
        """Print the report of a run that is complete, and return its numbers; else None.

        Raises:
          ValueError: the folder holds something else or a run with other options, or the report
            is damaged.
        """
        check_folder(self.folder, self.options)
        report = report_of(self.folder)
        if not report.exists():
            return None
        try:
            text = (report / "results.md").read_text("utf-8")
            content = json.loads((report / "results.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{report} is damaged ({error}): delete it, and the same command writes it anew"
            ) from None
        print(f"{text}\ncomplete: {report} holds this and the pictures")
        print(f"to start over, delete {report.parent}")
        return content

    def begin(self, data: str | None = None) -> None:
        """Make the folder, with the options in it; print of what data the run is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / _CONFIG, json.dumps(self.options, indent=2) + "\n")
        print(f"{data}\nin {self.folder}" if data else f"in {self.folder}", flush=True)

    def head(self, data: str) -> dict[str, Any]:
        """What a report says of its run: how it was asked for, of what data, and on what."""
        return {
            "command": self.command,
            "config": self.options,
            "data": data,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
            "backend": jax.default_backend(),
        }

    def save(
        self,
        content: dict[str, Any],
        text: str,
        draw: Callable[[Path], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Write the report whole: results.json, results.md, and what `draw` saves; print it.

        Args:
          content: all numbers, strictly JSON; returned.
          text: of them.
          draw: saves pictures and other files in the folder that it is given.
        """
        report = report_of(self.folder)
        with new_folder(report) as whole:
            write_json(whole / "results.json", content)
            replace_text(whole / "results.md", text)
            draw(whole)
        print(f"\n{text}\nsaved {report}")
        print(f"this call took {time.perf_counter() - self.started:.0f} s")
        return content


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked, by whichever options.

    Attributes:
      module: such as "experiments.hedged_digits".
      files: options that say where something lies on this machine: shown as FOLDER or FILE.
      name: of a run's folder, by its options; default: the module's.
    """

    module: str
    files: tuple[str, ...] = ()
    name: Callable[[Any], str] | None = None

    def folder(self, config: Any, options: dict[str, Any]) -> Path:
        """Where a run lives: in `config.output`, or a folder named after its options."""
        name = self.name(config) if self.name else self.module.rpartition(".")[2]
        toy = "-toy" if getattr(config, "toy", False) else ""
        return config.output or folder_of(name + toy, options)

    def run(self, asked: Any, config: Any, options: dict[str, Any]) -> Run:
        """A run of it.

        Args:
          asked: the options as they were given.
          config: with defaults filled in.
          options: all that numbers depend on, as JSON has them.
        """
        said = command(self.module, asked, files=self.files, hidden=("datasets", "output"))
        return Run(said, options, self.folder(config, options))

    def main(self, description: str | None, config: Any, answer: Callable[[Any], Any]) -> None:
        """Answer it from the command line."""
        main(self.module, description, config, answer)


def _filled(docstring: str) -> str:
    """Paragraphs filled to the terminal's width; what is indented as it stands."""
    width = min(shutil.get_terminal_size().columns, 100)
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width)
        for paragraph in docstring.strip().split("\n\n")
    )


def read_options(config: type, module: str, description: str | None) -> Any:
    """Options from the command line, as an instance of a dataclass.

    Args:
      config: the dataclass.
      module: such as "experiments.lasi_speed".
      description: the module's docstring. `--help` begins with it, printed here: tyro would make
        one line of each paragraph.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_filled(description or ""), end="\n\n")
    return tyro.cli(config, prog=f"python -m {module}", description="")


def main(
    module: str,
    description: str | None,
    config: Any,
    run: Callable[[Any], Any],
    *,
    interrupted: str = "interrupted; the same command goes on",
) -> None:
    """Read options from the command line, run, and turn an error into one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        run(read_options(config, module, description))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(interrupted)
