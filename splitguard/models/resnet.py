# SPDX-License-Identifier: Apache-2.0
"""Residual networks with the stem for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from splitguard.models import MODELS, Model, image_shape
from splitguard.models._normalise import Normalise

__all__ = ["BasicBlock", "ResNet18", "ResNet20"]

Norm = Literal["batch", "group"]


def _norm(kind: Norm, width: int) -> nn.Module:
    """BatchNorm, or GroupNorm in ``min(32, width / 2)`` groups, which mixes no rows."""
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(min(32, width // 2), width)


def _conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class BasicBlock(nn.Module):
    """``relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))``.

    The shortcut is a normed 1x1 convolution where shapes change, and nothing elsewhere.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: of conv1 and of the shortcut.
        norm: batch or group.
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = _conv(before, after, 3, stride)
        self.norm1 = _norm(norm, after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(after, after, 3)
        self.norm2 = _norm(norm, after)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Sequential(_conv(before, after, 1, stride), _norm(norm, after))

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out = out + (x if self.shortcut is None else self.shortcut(x))
        relu: Tensor = self.relu(out)
        return relu


@dataclass(frozen=True)
class _ResNet(Model):
    norm: Norm = "batch"

    widths: ClassVar[tuple[int, ...]]
    blocks: ClassVar[int]

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """(N, C, H, W) in [0, 1] to logits (N, classes); H and W at least 1."""
        channels, _, _ = image_shape("resnet", input_shape, least=1)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            normalise=Normalise.imagenet(channels),
            conv1=_conv(channels, self.widths[0], 3),
            norm1=_norm(self.norm, self.widths[0]),
            relu=nn.ReLU(inplace=True),
        )
        last = self.widths[0]
        for number, width in enumerate(self.widths, start=1):
            stride = 1 if number == 1 else 2
            first = BasicBlock(last, width, stride, self.norm)
            rest = [BasicBlock(width, width, 1, self.norm) for _ in range(self.blocks - 1)]
            layers[f"layer{number}"] = nn.Sequential(first, *rest)
            last = width
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(last, classes)
        return nn.Sequential(layers)


@MODELS.add("resnet18")
@dataclass(frozen=True)
class ResNet18(_ResNet):
    """ResNet-18 for small images: a 3x3 stem without max-pooling, four layers of two blocks, 64 to 512 channels.

    Layers: ``normalise, conv1, norm1, relu, layer1`` to ``layer4`` (each with blocks ``.0`` and ``.1``), ``avgpool,
    flatten, fc``. torchvision's own, with the large stem, is ``torchvision.resnet18``.

    Args:
        norm: ``batch``, which mixes the rows of a batch while training, or ``group``, which does not.

    Source: He et al., Deep residual learning for image recognition, CVPR 2016; the small stem is common use on CIFAR.
    """

    widths: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)
    blocks: ClassVar[int] = 2


@MODELS.add("resnet20")
@dataclass(frozen=True)
class ResNet20(_ResNet):
    """ResNet-20, made for CIFAR: a 3x3 stem, three layers of three blocks, 16 to 64 channels, 0.27 million parameters.

    Layers: ``normalise, conv1, norm1, relu, layer1`` to ``layer3`` (each with blocks ``.0`` to ``.2``), ``avgpool,
    flatten, fc``.

    Args:
        norm: ``batch``, which mixes the rows of a batch while training, or ``group``, which does not.

    Source: He et al., CVPR 2016, section 4.2; where shapes change the shortcut is a 1x1 convolution (their option B),
    not zero-padding (their option A).
    """

    widths: ClassVar[tuple[int, ...]] = (16, 32, 64)
    blocks: ClassVar[int] = 3
