"""Where does LPIPS come from? Its published weights, as files that are read here.

    python -m experiments.convert_weights
    python -m experiments.convert_weights --networks alexnet vgg16 squeezenet1_1 --output weights

Takes the networks from torchvision, which downloads them (AlexNet 233 MB, VGG16 528 MB,
SqueezeNet 5 MB), and what LPIPS 0.1 has learned of their channels from the package lpips, which
holds it. Run it where both are installed beside this project:

    pip install torch torchvision lpips

Writes <network>.safetensors and <network>_heads.safetensors for each network. They hold only what
is computed with, no code, and need neither package: `compare_images`, `competition`, `two_afc` and
`mos_agreement` take them as `--weights` and `--heads`; `lasi_jax.networks` loads them.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np

from experiments import runs
from experiments.image_metrics import deep_network
from experiments.runs import files

Name = Literal["alexnet", "vgg16", "squeezenet1_1"]
NETWORKS: tuple[Name, ...] = get_args(Name)
_IN_LPIPS: dict[Name, str] = {"alexnet": "alex", "vgg16": "vgg", "squeezenet1_1": "squeeze"}
_INSTALL = "pip install torch torchvision lpips"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the conversion."""

    networks: tuple[Name, ...] = ("alexnet",)
    """Which networks, by torchvision's names. LPIPS's authors take AlexNet as a metric, VGG16 as a
    loss."""
    output: Path = Path("results/weights")
    """A new folder for the files."""


def trunk(state: Mapping[str, Any], network: Name) -> dict[str, np.ndarray]:
    """The arrays of torchvision's state dict that are computed with.

    The classifiers of AlexNet and VGG16, most of their weights, are left out.

    Args:
      state: arrays by torchvision's names.
      network: whose they are.
    """
    kept = ("features.", "classifier.1.") if network == "squeezenet1_1" else ("features.",)
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in state.items()
        if name.startswith(kept)
    }


def heads(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """LPIPS's weights of channels, in a state dict of them or of the whole of LPIPS.

    Args:
      state: arrays by LPIPS's names.
    """
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in state.items()
        if name.startswith("lin") and not name.startswith("lins")
    }


def _package(name: str) -> ModuleType:
    """A package that is not among this project's.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"convert_weights needs the package {name} ({error}): {_INSTALL}"
        ) from None


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def published(network: Name) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state dicts of torchvision's network and of LPIPS's heads, from the user's packages.

    Raises:
      ValueError: a package is missing.
    """
    torch, vision, lpips = map(_package, ("torch", "torchvision", "lpips"))
    of_trunk = getattr(vision.models, network)(weights="DEFAULT").state_dict()
    path = Path(str(lpips.__file__)).parent / "weights" / "v0.1" / f"{_IN_LPIPS[network]}.pth"
    of_heads = torch.load(path, map_location="cpu", weights_only=True)
    return _arrays(of_trunk), _arrays(of_heads)


def run(config: Config) -> list[Path]:
    """Convert, and read the files again to see that they are whole; returns their paths.

    Raises:
      ValueError: an unknown network, or a package is missing, or holds other arrays than were
        published.
    """
    runs.check_choices(config, "networks", NETWORKS)
    written = []
    with files.new_folder(config.output) as folder:
        for network in config.networks:
            of_trunk, of_heads = published(network)
            paths = folder / f"{network}.safetensors", folder / f"{network}_heads.safetensors"
            files.save_tensors(paths[0], trunk(of_trunk, network))
            files.save_tensors(paths[1], heads(of_heads))
            loaded = deep_network.load(*paths)
            assert loaded is not None
            weights, of_channels = (config.output / path.name for path in paths)
            print(f"{loaded.title}: --weights {weights} --heads {of_channels}", flush=True)
            written += [weights, of_channels]
    return written


if __name__ == "__main__":
    runs.main(
        "experiments.convert_weights",
        __doc__,
        Config,
        run,
        interrupted="interrupted, nothing was saved",
    )
