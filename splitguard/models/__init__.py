# SPDX-License-Identifier: Apache-2.0
"""Networks by name, by factory, or from torchvision; each with named layers, and normalising inside."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from splitguard.errors import BadSetting, DataUnavailable, NotSupported, UnknownName, near_miss
from splitguard.models._factory import made, written
from splitguard.registry import Registry, settings_of
from splitguard.seeding import derive, drawing

__all__ = ["MODELS", "Model", "ModelSpec", "image_shape", "make_model", "model_spec"]

ModelSpec = str | Mapping[str, Any]

_OUTSIDE = ("weights", "digest", "code")  # keys of a spec that say what is loaded, not how the network is built


class Model(ABC):
    """A family of networks; subclasses are dataclasses whose fields are the settings."""

    name: ClassVar[str] = ""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A fresh network, (N, *input_shape) to logits (N, classes); it may draw from torch's global generator."""


MODELS: Registry[Model] = Registry("model", package="splitguard.models", group="splitguard.models")


def image_shape(model: str, input_shape: tuple[int, ...], *, least: int) -> tuple[int, int, int]:
    """``input_shape`` as channels, height and width.

    Raises:
        NotSupported: if it is no image, or has a side under ``least`` pixels.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise NotSupported(
            f"the model {model} takes images (channels, height, width) of at least {least}x{least} pixels; "
            f"got inputs of shape {input_shape}. mlp takes any shape."
        )
    channels, height, width = input_shape
    return channels, height, width


def model_spec(spec: ModelSpec) -> dict[str, Any]:
    """A spec in its one resolved form, which `make_model` reads too: plain data, fit for a key and for JSON.

    ``{"name": ..., **settings}`` with every default filled in for models registered here, or ``{"factory": ...,
    **settings}``. With ``weights``, a path, comes ``digest``, 16 hex digits of the SHA-256 of what the file holds; with
    a factory ``code``, those of the file that it is written in. What that file imports is not looked at.

    Raises:
        BadSetting, UnknownName: as `make_model`.
        DataUnavailable: if there is no such file of weights.
    """
    flat = _flat(spec)
    rest = {k: v for k, v in flat.items() if k not in ("name", "factory", *_OUTSIDE)}
    out: dict[str, Any]
    if "factory" in flat:
        out = {"factory": _text(flat, "factory"), **rest}
        if (code := written(out["factory"])) is not None:
            out["code"] = code
        if flat.get("code") not in (None, code):
            raise BadSetting(
                f"the file of {out['factory']} has the digest {code}, but {flat['code']} was asked for: it has "
                "changed. Bring the old one back, or begin again from the matrix file."
            )
    else:
        name = _text(flat, "name")
        _check_name(name)
        out = {"name": name, **(settings_of(MODELS.build({name: rest})) if name in MODELS else rest)}
    if flat.get("weights") is not None:
        if not isinstance(flat["weights"], str | Path):
            raise BadSetting(f"the weights of a model are a path to a .safetensors file; got {flat['weights']!r}")
        out |= {"weights": str(flat["weights"]), "digest": _digest(Path(flat["weights"]))}
        if flat.get("digest") not in (None, out["digest"]):
            raise BadSetting(
                f"the weights {out['weights']} have the digest {out['digest']}, but {flat['digest']} was asked for: "
                "the file has changed. Bring the old file back, or leave digest out."
            )
    return out


def make_model(spec: ModelSpec, *, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A fresh network on the CPU.

    Args:
        spec: a registered name (``"lenet"``); one of torchvision's classification networks (``"resnet50"``, or
            ``"torchvision.resnet18"`` where the name is taken here), which then takes images in [0, 1] of one or three
            channels; either with settings, ``{"lenet": {"dropout": 0.2}}`` or ``{"name": "lenet", "dropout": 0.2}``;
            or a function of yours, ``{"factory": "my.module:make"}``, called with ``input_shape`` and ``classes``
            where its signature names them, and with any further keys of the spec. ``weights`` in any of these is a
            safetensors file whose tensors replace those of the same name; it may hold a part of the network.
        input_shape: of one input, without the batch.
        classes: number of logits, K.
        seed: of the initial weights; the global generator of torch is left as it was.

    Returns:
        A module from (N, *input_shape), images in [0, 1], to logits (N, K).

    Raises:
        UnknownName: for a name or a setting, with near misses.
        BadSetting: for a value, a factory or a file of weights that does not fit.
        DataUnavailable: if there is no such file of weights.
        NotSupported: if the model does not take such inputs.
    """
    flat = model_spec(spec)
    settings = {k: v for k, v in flat.items() if k not in ("name", "factory", *_OUTSIDE)}
    with drawing(derive(seed, "weights")):
        if "factory" in flat:
            module = made(flat["factory"], settings, input_shape, classes)
        elif flat["name"] in MODELS:
            return _loaded(MODELS.build({flat["name"]: settings}).build(input_shape, classes), flat)
        else:
            from splitguard.models.vision import vision

            module = vision(flat["name"], settings, input_shape, classes)
        _check_fits(module, flat, input_shape, classes)
    return _loaded(module, flat)


def _flat(spec: ModelSpec) -> dict[str, Any]:
    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, Mapping):
        if "factory" in spec or "name" in spec:
            return {str(k): v for k, v in spec.items()}
        if len(spec) == 1:
            name, settings = next(iter(spec.items()))
            if isinstance(name, str) and (settings is None or isinstance(settings, Mapping)):
                return {"name": name, **{str(k): v for k, v in (settings or {}).items()}}
    raise BadSetting(
        "a model is written as a name, as {name: {setting: value}} or as {factory: 'module:function'}; "
        f"got {spec!r}"
    )


def _text(flat: Mapping[str, Any], key: str) -> str:
    if not isinstance(flat[key], str):
        raise BadSetting(f"the {key} of a model is a text; got {flat[key]!r}")
    return str(flat[key])


def _check_name(name: str) -> None:
    if name not in MODELS:
        from splitguard.models.vision import PREFIX, vision_names

        known = vision_names()
        if name.removeprefix(PREFIX) not in known:
            raise UnknownName(near_miss(name, {*MODELS, *known}, what="model"))


def _check_fits(module: nn.Module, flat: Mapping[str, Any], input_shape: tuple[int, ...], classes: int) -> None:
    """Sends two inputs through a network whose code is not ours."""
    who = flat.get("name") or flat.get("factory")
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.no_grad():
            out = module.eval()(torch.rand(2, *input_shape))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise NotSupported(f"the model {who} does not take inputs of shape {input_shape}: {error}") from error
    finally:
        for part, mode in modes:
            part.training = mode
    if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise BadSetting(f"the model {who} must return logits of shape (N, {classes}); for N = 2 it returned {got}")


def _digest(path: Path) -> str:
    if path.suffix != ".safetensors":
        raise BadSetting(
            f"weights are read from .safetensors files only, since reading other checkpoints can run code; got {path}. "
            "Convert once with safetensors.torch.save_file(module.state_dict(), path)."
        )
    if not path.is_file():
        raise DataUnavailable(f"there is no file of weights at {path.absolute()}; write its path, or leave weights out")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _loaded(module: nn.Module, flat: Mapping[str, Any]) -> nn.Module:
    """``module`` with the tensors of the file ``weights`` in place of its own."""
    if "weights" not in flat:
        return module
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = flat["weights"]
    try:
        given = load_file(path)
    except SafetensorError as error:
        raise BadSetting(f"the weights {path} cannot be read: {error}") from error
    own = module.state_dict()
    if not given:
        raise BadSetting(f"the weights {path} hold no tensors")
    for name, value in given.items():
        if name not in own:
            raise BadSetting(f"the weights {path}: " + near_miss(name, own, what="tensor"))
        if value.shape != own[name].shape:
            raise BadSetting(
                f"the weights {path}: {name} must have the shape {tuple(own[name].shape)}; got {tuple(value.shape)}"
            )
    module.load_state_dict(given, strict=False)
    return module
