# SPDX-License-Identifier: Apache-2.0
"""Layers that mix the rows of a batch are found by name, whoever wrote them, and no others are accused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from splitguard.engine.cut import mixes_rows, split
from splitguard.models import make_model


class Rule(nn.Module):
    """A layer that is any function, followed step by step or, if ``whole``, kept whole."""

    def __init__(self, rule: Callable[[Tensor], Tensor], *, whole: bool = False) -> None:
        super().__init__()
        self.rule = rule
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        if self.whole and x.shape[0] < 0:
            raise AssertionError
        return self.rule(x)


def chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(first=nn.Linear(4, 4), **layers, last=nn.Linear(4, 4)))


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda x: x - x.mean(0),
    "summed": lambda x: x.cumsum(0),
    "summed-backwards": lambda x: x.flip(0).cumsum(0).flip(0),
    "scaled": lambda x: x / x.norm(),
    "neighbour": lambda x: x + x.roll(1, 0),
    "attention": lambda x: torch.softmax(x @ x.T, -1) @ x,
    "by-the-largest": lambda x: x / x.abs().amax().clamp(min=1),
}
APART: dict[str, Callable[[Tensor], Tensor]] = {
    "per-row": lambda x: x - x.mean(1, keepdim=True),
    "summed": lambda x: x.cumsum(1),
    "turned-twice": lambda x: x.T.sigmoid().T,
    "reshaped": lambda x: x.reshape(-1, 2).exp().reshape(-1, 4),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_any_function_that_mixes_is_named(name: str, whole: bool) -> None:
    found = mixes_rows(chain(norm=nn.LayerNorm(4), mix=Rule(MIXING[name], whole=whole), relu=nn.Sigmoid()), (4,))
    assert found
    assert all(layer.startswith("mix") for layer in found)
    assert found == ["mix"] or not whole


def test_what_mixes_only_where_a_row_is_far_off_is_named() -> None:
    assert mixes_rows(chain(mix=Rule(lambda x: x / x.abs().amax().clamp(min=100), whole=True)), (4,)) == ["mix"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", APART)
def test_functions_of_single_rows_are_not_accused(name: str, whole: bool) -> None:
    module = chain(apart=Rule(APART[name], whole=whole), drop=nn.Dropout(0.5), norm=nn.LayerNorm(4), relu=nn.ReLU(True))
    assert mixes_rows(module, (4,)) == []


def test_batch_norm_mixes_while_training_and_not_in_eval_mode_unless_it_keeps_no_statistics() -> None:
    module = chain(one=nn.BatchNorm1d(4), relu=nn.ReLU(inplace=True), two=nn.BatchNorm1d(4, track_running_stats=False))
    assert mixes_rows(module, (4,)) == ["one", "two"]
    assert mixes_rows(module, (4,), training=False) == ["two"]


def test_batch_norm_is_named_even_where_the_trial_shows_nothing() -> None:
    module = chain(dead=Rule(lambda x: x * 0), norm=nn.BatchNorm1d(4))
    assert mixes_rows(module, (4,)) == ["norm"]


def test_each_mixing_layer_is_named_behind_others_that_mix() -> None:
    module = chain(a=Rule(MIXING["centred"], whole=True), b=nn.Sigmoid(), c=Rule(MIXING["neighbour"], whole=True))
    assert mixes_rows(module, (4,)) == ["a", "c"]


@pytest.mark.parametrize(("norm", "count"), [("batch", 3), ("group", 0)])
def test_stages_of_a_network_under_its_own_names(
    norm: str, count: int, rng_untouched: Callable[[], AbstractContextManager[None]]
) -> None:
    module = make_model({"resnet20": {"norm": norm}}, input_shape=(3, 8, 8), classes=4, seed=0)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    network = split(module, "layer1.0")
    with rng_untouched():
        found = mixes_rows(network.head, (3, 8, 8))
        body = mixes_rows(network.body, (16, 8, 8))
    assert found == ["norm1", "layer1.0.norm1", "layer1.0.norm2"][:count]
    assert bool(body) == bool(count)
    assert not {"norm1", "layer1.0.norm1"} & set(body)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items()), "the trial went through a copy"
    wrapped = nn.Sequential(network.head, nn.Tanh())
    assert mixes_rows(wrapped, (3, 8, 8)) == [f"0.{name}" for name in found]
