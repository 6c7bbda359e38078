# SPDX-License-Identifier: Apache-2.0
"""torchvision's classification networks, untrained, taking images in [0, 1] of one or three channels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from splitguard.compat import torchvision
from splitguard.errors import BadSetting, UnknownName, near_miss
from splitguard.models import image_shape
from splitguard.models._normalise import IMAGENET, Normalise

__all__ = ["PREFIX", "vision", "vision_names"]

PREFIX = "torchvision."


@functools.cache
def vision_names() -> frozenset[str]:
    """The names of torchvision's classification networks."""
    models = torchvision().models
    return frozenset(models.list_models(module=models))


class _Inside:
    """Put before a network's class: normalises first. Its layers keep their names, and so do their weights."""

    normalise: nn.Module

    def forward(self, x: Tensor) -> Any:
        """Of images (N, C, H, W) in [0, 1]; one channel is repeated to three."""
        return super().forward(self.normalise(x))  # type: ignore[misc]  # the class behind has it


def vision(name: str, settings: Mapping[str, Any], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """``torchvision.models.get_model(name, weights=None, num_classes=classes)`` with a layer ``normalise`` in front.

    Vision transformers are built for the size of the images; auxiliary classifiers are off.

    Args:
        name: one of `vision_names`, with or without ``torchvision.`` in front.
        settings: keyword arguments of torchvision's builder.
        input_shape: (1 or 3, H, W).
        classes: number of logits.

    Raises:
        BadSetting: if the builder refuses a setting, or there are neither one nor three channels.
        UnknownName: for a setting that the builder would ignore; with near misses.
    """
    name = name.removeprefix(PREFIX)
    channels, height, width = image_shape(name, input_shape, least=1)
    if channels not in (1, 3):
        raise BadSetting(f"the model {name} takes images of 1 or 3 channels; got {channels}")
    builder = {"weights": None, "num_classes": classes, **_fitting(name, height, width), **settings}
    try:
        module: nn.Module = torchvision().models.get_model(name, **builder)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BadSetting(
            f"torchvision cannot build {name} for inputs of shape {input_shape} and settings {dict(settings)}: {error}"
        ) from error
    _check_settings(name, settings, type(module))
    module.__class__ = type(f"Normalised{type(module).__name__}", (_Inside, type(module)), {})
    module.add_module("normalise", Normalise(*IMAGENET))
    return module


def _check_settings(name: str, settings: Mapping[str, Any], network: type[nn.Module]) -> None:
    """Refuses what the builder would pass over in silence: some of torchvision's networks ignore unknown arguments."""
    known: set[str] = set()
    for maker in (torchvision().models.get_model_builder(name), network.__init__):
        known |= {p.name for p in inspect.signature(maker).parameters.values() if p.kind is not p.VAR_KEYWORD}
    known -= {"self", "weights", "progress", "num_classes"}
    for key in settings:
        if key not in known:
            raise UnknownName(near_miss(key, known, what=f"setting of torchvision's {name}:"))


def _fitting(name: str, height: int, width: int) -> dict[str, Any]:
    """What the builder must know of the images, and how it is kept from returning several outputs."""
    if name.startswith("vit_") and height == width:
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}
