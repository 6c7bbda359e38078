# SPDX-License-Identifier: Apache-2.0
"""Split against unsplit, to the bit: what the tests of cutting share."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from splitguard.compat import torchvision
from splitguard.engine.cut import SplitModel, legal_cuts, split
from splitguard.seeding import drawing, reseed

State = dict[str, Tensor]
Cuts = list[str | tuple[str, ...]]


def inputs(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def by_the_whole(module: nn.Module, x: Tensor, functions: Sequence[tuple[str, str]] = ()) -> State:
    """Output, gradients and buffers of one pass through the uncut network.

    Its random layers draw from streams of their own, by hooks that know nothing of tracing. ``functions`` are layers
    that draw through a function of that name.
    """
    hooks = []
    names = {path: path for path, m in module.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd)}
    names |= {path: f"{path}.{function}".lstrip(".") for path, function in functions}
    for path, name in names.items():
        hooks.append(module.get_submodule(path).register_forward_pre_hook(lambda _m, _x, name=name: reseed(name)))
    with drawing(3):
        out = module(x)
    for hook in hooks:
        hook.remove()
    out.square().sum().backward()
    return {"": out.detach(), **gradients(module), **{k: v.clone() for k, v in module.named_buffers()}}


def by_stages(network: SplitModel, x: Tensor) -> State:
    """The same by the stages, as parties take them: a clone of what was sent goes on, and gradients come back."""
    sent, received = [], []
    value = x
    for number, (_, stage) in enumerate(network.stages):
        if number:
            received.append(value.detach().requires_grad_(True))
            value = received[-1].clone()
        with drawing(3):
            value = stage(value)
        sent.append(value)
    copies = [leaf.detach().clone() for leaf in received]
    sent[-1].square().sum().backward()
    for value, leaf in zip(reversed(sent[:-1]), reversed(received), strict=True):
        if value.requires_grad:
            value.backward(leaf.grad)
    assert all(torch.equal(one, two) for one, two in zip(copies, received, strict=True)), (
        "what was sent was overwritten"
    )
    out = {"": sent[-1].detach()}
    for _, stage in network.stages:
        out |= gradients(stage) | {k: v.clone() for k, v in stage.named_buffers()}
    return out


def gradients(module: nn.Module) -> State:
    return {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}


def assert_equal(one: State, two: State) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def assert_splits_exactly(
    make: Callable[[], nn.Module],
    x: Tensor,
    cuts: Cuts,
    functions: Sequence[tuple[str, str]] = (),
    modes: Sequence[bool] = (True, False),
) -> None:
    """Every cut in ``cuts`` in train mode, and every single cut in eval mode."""
    original = make()
    for mode in modes:
        whole = by_the_whole(copy.deepcopy(original).train(mode), x, functions)
        for at in [c for c in cuts if mode or len(modes) == 1 or isinstance(c, str)]:
            network = split(copy.deepcopy(original).train(mode), at)
            assert_equal(whole, by_stages(network, x))


def cuts_and_pairs(module: nn.Module, shape: tuple[int, ...], every: int = 1) -> Cuts:
    names = [c.name for c in legal_cuts(module, shape)]
    return [*names, *list(itertools.combinations(names, 2))[::every]]


def small_vit() -> nn.Module:
    torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    with drawing(0):
        vit: nn.Module = VisionTransformer(
            image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=5, dropout=0.2
        )
        for parameter in vit.parameters():
            parameter.data.normal_(0, 0.3)
    return vit


def vision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with drawing(0):
            module: nn.Module = torchvision().models.get_model(name, weights=None, num_classes=10)
        return module

    return make


class Two(nn.Module):
    """Two linear layers with something between, given by a function of (self, x, a(x))."""

    def __init__(self, rule: Callable[[Any, Tensor, Tensor], Tensor], **more: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.rule = rule
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.rule(self, x, self.a(x)))  # type: ignore[no-any-return]
