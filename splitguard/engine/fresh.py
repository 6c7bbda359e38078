# SPDX-License-Identifier: Apache-2.0
"""An architecture without its weights: what an adversary has who knows only how the head is built."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from splitguard.seeding import derive, drawing

__all__ = ["fresh_copy"]


def fresh_copy(module: nn.Module, gen: torch.Generator) -> nn.Module:
    """The same architecture with weights drawn afresh, in train mode, gradients on.

    Layers draw by their own `reset_parameters`. What that leaves as it was is normal with standard deviation 0.02:
    parameters that stand outside such layers (tokens, position embeddings), and those behind a weight or spectral norm,
    whose layers reset a product of them. Buffers are reset with their layers; those that a reset layer leaves as they
    were, and those of a norm of weights, are drawn too, as they were computed from weights.
    """
    twin = copy.deepcopy(module).requires_grad_(True).train()
    seed = int(torch.randint(2**31, (1,), generator=gen))
    with drawing(derive(seed, "fresh")), torch.no_grad():
        before = {name: value.clone() for name, value in _tensors(twin)}
        for layer in twin.modules():
            again = getattr(layer, "reset_parameters", None)
            if callable(again):
                again()
        for name, value in _tensors(twin):
            if torch.equal(value, before[name]) and _tells(name, value, twin):
                value.normal_(0, 0.02)
    return twin


def _tells(name: str, value: Tensor, module: nn.Module) -> bool:
    """Whether what no layer has reset may still say what was learnt."""
    resets = callable(getattr(module.get_submodule(name.rpartition(".")[0]), "reset_parameters", None))
    # What is all one number, as a bias of zeros or the scale of a norm, was reset to what it was.
    plain = not value.is_floating_point() or bool((value == value.flatten()[:1]).all())
    if isinstance(value, nn.Parameter):
        return not (resets and plain)
    return not plain and (resets or "parametrizations" in name.split("."))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    yield from module.named_parameters()
    yield from module.named_buffers()
