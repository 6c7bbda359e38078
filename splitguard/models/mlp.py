# SPDX-License-Identifier: Apache-2.0
"""Dense layers only, for images and for rows of numbers."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from splitguard.errors import BadSetting
from splitguard.models import MODELS, Model
from splitguard.models._normalise import Normalise

__all__ = ["MLP"]


@MODELS.add("mlp")
@dataclass(frozen=True)
class MLP(Model):
    """Dense layers with ReLU: the control for the claim that dense heads resist reconstruction.

    Layers, each a cut: ``normalise`` to [-1, 1] (images only), ``flatten``, ``fc1`` to ``fcK`` each with its ReLU, and
    the last dense layer ``out``.

    Args:
        widths: of fc1 to fcK, each at least 1.

    Source: Semenov et al., arXiv 2412.11689, study such heads under UnSplit and FSHA.
    """

    widths: tuple[int, ...] = (256, 128)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise BadSetting(f"mlp: widths are one or more numbers of at least 1; got {self.widths}")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """(N, *in), images in [0, 1], to logits (N, classes)."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if len(input_shape) == 3:
            layers["normalise"] = Normalise([0.5], [0.5])
        layers["flatten"] = nn.Flatten()
        last = math.prod(input_shape)
        for number, width in enumerate(self.widths, start=1):
            layers[f"fc{number}"] = nn.Sequential(nn.Linear(last, width), nn.ReLU())
            last = width
        layers["out"] = nn.Linear(last, classes)
        return nn.Sequential(layers)
