# SPDX-License-Identifier: Apache-2.0
"""An architecture without its weights: what an adversary has who knows only how the head is built."""

from __future__ import annotations

import copy

import torch
from torch import nn

from splitguard.seeding import derive, drawing

__all__ = ["fresh_copy"]


def fresh_copy(module: nn.Module, gen: torch.Generator) -> nn.Module:
    """The same architecture with weights drawn afresh, in train mode, gradients on.

    Layers draw by their own `reset_parameters`; parameters that stand outside such layers (tokens, position
    embeddings) are normal with standard deviation 0.02; buffers are reset with their layers.
    """
    twin = copy.deepcopy(module).requires_grad_(True).train()
    seed = int(torch.randint(2**31, (1,), generator=gen))
    with drawing(derive(seed, "fresh")), torch.no_grad():
        reset = set()
        for layer in twin.modules():
            again = getattr(layer, "reset_parameters", None)
            if callable(again):
                again()
                reset |= {id(p) for p in layer.parameters()}
        for parameter in twin.parameters():
            if id(parameter) not in reset:
                parameter.normal_(0, 0.02)
    return twin
