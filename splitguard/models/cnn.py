# SPDX-License-Identifier: Apache-2.0
"""The six-convolution network on which model inversion of split inference was first measured."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from splitguard.models import MODELS, Model, image_shape
from splitguard.models._normalise import Normalise

__all__ = ["CNN"]


@MODELS.add("cnn")
@dataclass(frozen=True)
class CNN(Model):
    """The CIFAR-10 network of He et al.: six 3x3 convolutions (64, 64, 128, 128, 128, 128) and two dense layers.

    Layers, each a cut: ``normalise`` by ImageNet's mean and deviation, ``conv11, relu11, conv12, relu12, pool1``,
    ``conv21, relu21, conv22, relu22, pool2``, ``conv31, relu31, conv32, relu32, pool3``, ``flatten, fc1`` (512),
    ``relu, fc2``. The paper cuts at conv11 (before its activation), ReLU22 and ReLU32, so activations have names of
    their own here. Convolutions are padded by 1; each pool halves the image.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019.
    """

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """(N, C, H, W) in [0, 1] to logits (N, classes); H and W at least 8."""
        channels, height, width = image_shape("cnn", input_shape, least=8)
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise.imagenet(channels))
        last = channels
        for block, maps in enumerate((64, 128, 128), start=1):
            for number in (1, 2):
                layers[f"conv{block}{number}"] = nn.Conv2d(last, maps, 3, padding=1)
                layers[f"relu{block}{number}"] = nn.ReLU()
                last = maps
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(last * (height // 8) * (width // 8), 512)
        layers["relu"] = nn.ReLU()
        layers["fc2"] = nn.Linear(512, classes)
        return nn.Sequential(layers)
