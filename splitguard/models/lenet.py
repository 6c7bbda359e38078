# SPDX-License-Identifier: Apache-2.0
"""LeNet-5 with ReLU and max-pooling, for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from splitguard.errors import BadSetting
from splitguard.models import MODELS, Model, image_shape
from splitguard.models._normalise import Normalise

__all__ = ["LeNet"]


@MODELS.add("lenet")
@dataclass(frozen=True)
class LeNet(Model):
    """LeNet-5: two 5x5 convolutions and three dense layers, 109 thousand parameters on 28x28 pixels.

    Layers: ``normalise`` to [-1, 1], ``conv1`` (8 maps), ``pool1``, ``conv2`` (16 maps), ``pool2``, ``flatten``,
    ``fc1`` (120), ``fc2`` (84), ``fc3``; each but the last is a cut. The convolutions are padded by 2, so that they
    keep the image's size; the pools halve it. ``conv1``, ``conv2``, ``fc1`` and ``fc2`` contain their ReLU: a cut there
    lies after the activation and before pooling.

    Args:
        dropout: rate in [0, 1) of ``dropout1`` after fc1 and ``dropout2`` after fc2; 0 leaves these layers out.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, with the 8 and 16 maps of He et
    al., ACSAC 2019. ReLU, max-pooling and the padding are ours.
    """

    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise BadSetting(f"lenet: dropout is a rate in [0, 1); got {self.dropout}")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """(N, C, H, W) in [0, 1] to logits (N, classes); H and W at least 4."""
        channels, height, width = image_shape("lenet", input_shape, least=4)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            normalise=Normalise([0.5], [0.5]),
            conv1=nn.Sequential(nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Sequential(nn.Conv2d(8, 16, 5, padding=2), nn.ReLU()),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Sequential(nn.Linear(16 * (height // 4) * (width // 4), 120), nn.ReLU()),
        )
        if self.dropout:
            layers["dropout1"] = nn.Dropout(self.dropout)
        layers["fc2"] = nn.Sequential(nn.Linear(120, 84), nn.ReLU())
        if self.dropout:
            layers["dropout2"] = nn.Dropout(self.dropout)
        layers["fc3"] = nn.Linear(84, classes)
        return nn.Sequential(layers)
