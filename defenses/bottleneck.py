# SPDX-License-Identifier: Apache-2.0
"""The cut is narrowed: a linear layer before it, and one after it that widens again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from splitguard.api import DEFENSES, BadSetting, Cut, Defense, NotSupported, SplitModel

__all__ = ["Bottleneck"]


@DEFENSES.add("bottleneck")
@dataclass(kw_only=True)
class Bottleneck(Defense):
    """Sends ``A z + a`` in place of ``z``, with fewer channels; the body begins with the layer that widens it again.

    On a map (C, H, W) both layers are 1x1 convolutions, C to ``channels`` and back; on anything else, (d,) or
    (tokens, d), they are linear in the last dimension. The narrow layer is the head's last and is trained, frozen and
    handed on with it; the wide one is the body's first. Parameters, FLOPs and bytes of both parties count them: it is
    the one defense here that makes the wire cheaper.

    Nothing is guaranteed. What is lost is lost by counting dimensions, so it helps where ``channels H W`` falls below
    the number of input coordinates; the layers are linear, and are trained to keep what the task needs. There are no
    null settings: even without narrowing there would be two more layers to train.

    Args:
        channels: what is left of the channels (of the last dimension, where the cut is no map); at least 1, and fewer
            than there are. Without it, an eighth of them, rounded up.

    Raises:
        BadSetting: if ``channels`` is below 1; from `wrap`, if the cut has no more than that.
        NotSupported: from `wrap`, if `place` was never called: it tells the width of the cut.

    Source: the bottleneck of Li et al., ResSFL, CVPR 2022 (arXiv 2205.04007), there C8S1, eight channels at stride 1,
    3x3; also Eshratifar et al., BottleNet, 2019. Here 1x1, without an activation of its own, and without ResSFL's
    adversarial training, which is a defense of its own.
    """

    channels: int | None = None
    _widths: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Li et al., ResSFL, CVPR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "cut"
    breakers = ("white-box-inversion", "inverse-network", "fora")

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels < 1:
            raise BadSetting(f"bottleneck: channels must be at least 1; got {self.channels!r}")

    def place(self, cuts: tuple[str, ...], legal: Sequence[Cut]) -> tuple[str, ...]:
        """``cuts`` as they are; the shapes at all legal ones are noted, as another defense may still move the cut."""
        self._widths = {cut.name: cut.shape for cut in legal}
        return cuts

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """The same network with the narrow layer at the end of the head and the wide one at the start of the body."""
        cut = split.cuts[0]
        if cut not in self._widths:
            raise NotSupported(f"bottleneck: the width of the cut {cut!r} is not known; call place before wrap")
        shape = self._widths[cut]
        wide = shape[0] if len(shape) == 3 else shape[-1]
        left = math.ceil(wide / 8) if self.channels is None else self.channels
        if left >= wide:
            raise BadSetting(
                f"bottleneck: channels must be fewer than the {wide} that cross at {cut!r}, shape {shape}; got {left}"
            )
        like = next(split.head.parameters(), torch.empty(0))
        narrow = _linear(wide, left, shape, like, generator)
        widen = _linear(left, wide, shape, like, generator)
        head = nn.Sequential(split.head, narrow)
        return SplitModel(head, nn.Sequential(widen, split.body), split.tail, split.cuts)

    def state_dict(self) -> dict[str, Any]:
        """The shapes at the cuts, so that a saved session can be wrapped again without `place`."""
        return {"widths": {name: list(shape) for name, shape in self._widths.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._widths = {name: tuple(shape) for name, shape in state["widths"].items()}


def _linear(inward: int, outward: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> nn.Module:
    """A layer that is linear in the channels, its weights drawn as torch's own layers draw them, from ``generator``."""
    layer: nn.Module = (
        skip_init(nn.Conv2d, inward, outward, 1) if len(shape) == 3 else skip_init(nn.Linear, inward, outward)
    )
    limit = 1 / math.sqrt(inward)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -limit, limit, generator=generator)
    return layer.to(like)
