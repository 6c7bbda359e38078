# SPDX-License-Identifier: Apache-2.0
"""What a split costs its parties: parameters, floating-point operations, and bytes that cross."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from splitguard.seeding import drawing, generator

if TYPE_CHECKING:
    from splitguard.engine.cut import SplitModel

__all__ = ["Cost", "Share", "counting", "example", "measure"]

FLOAT32 = 4
"""Bytes of one float32."""


@dataclass(frozen=True)
class Share:
    """What one stage costs: number of parameters, and FLOPs of one sample's forward pass."""

    params: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """What a split costs.

    Attributes:
        head, body, tail: of each stage; the tail is None with one cut.
        bytes: what crosses at each cut in one direction, per sample, in float32.
    """

    head: Share
    body: Share
    tail: Share | None
    bytes: tuple[int, ...]

    @property
    def client_params(self) -> int:
        """Parameters of head and tail."""
        return self.head.params + (self.tail.params if self.tail else 0)

    @property
    def server_params(self) -> int:
        """Parameters of the body."""
        return self.body.params

    @property
    def client_flops(self) -> int:
        """FLOPs of one sample's forward pass through head and tail."""
        return self.head.flops + (self.tail.flops if self.tail else 0)

    @property
    def server_flops(self) -> int:
        """FLOPs of one sample's forward pass through the body."""
        return self.body.flops


def measure(network: SplitModel, input_shape: Sequence[int]) -> Cost:
    """Runs one sample through the stages, in eval mode, and counts.

    FLOPs are those of `torch.utils.flop_counter`: a multiplication and an addition are two, and it counts matrix
    products, convolutions and attention, not activations, pooling and normalisation. A backward pass costs about twice
    the forward pass. Layers that a defense adds to a stage are counted with it.

    Args:
        network: the split network.
        input_shape: of one input, without the batch.
    """
    shares: list[Share] = []
    sizes: list[int] = []
    with counting(network) as counter:
        value = example(network, input_shape, rows=1)
        for _, stage in network.stages:
            before = counter.get_total_flops()
            value = stage(value)
            params = sum(p.numel() for p in stage.parameters())
            shares.append(Share(params, counter.get_total_flops() - before))
            sizes.append(math.prod(value.shape[1:]) * FLOAT32)
    return Cost(shares[0], shares[1], shares[2] if len(shares) > 2 else None, tuple(sizes[:-1]))


def example(module: nn.Module, input_shape: Sequence[int], *, rows: int) -> Tensor:
    """(rows, *input_shape): uniform in [0, 1], where and of the type that the module's parameters are."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.rand(rows, *input_shape, generator=generator(0, "example")).to(like)


@contextlib.contextmanager
def counting(module: nn.Module) -> Iterator[FlopCounterMode]:
    """A block in which FLOPs are counted, the module is in eval mode, and no generator or gradient is touched."""
    modes = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention would be counted as nothing
    module.eval()
    try:
        with torch.no_grad(), drawing(0), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, mode in modes:
            part.training = mode
