# SPDX-License-Identifier: Apache-2.0
"""Where networks can be cut, and what is said where they cannot."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.engine.cut import cut_shapes, legal_cuts, next_cuts, split
from splitguard.errors import BadCut, NotSupported, SplitguardError, UnknownName
from splitguard.models import make_model
from tests.engine.exactly import Two, assert_splits_exactly, inputs, vision


def test_skip_connections_are_refused_by_name_with_the_nearest_legal_cuts() -> None:
    resnet = vision("resnet18")()
    wanted = "cannot cut at 'layer2.1.bn1': beside it, layer2.0 would have to cross, to be used later on. "
    wanted += "The nearest legal cuts: layer2.0 before it, layer2.1.add after it."
    with pytest.raises(BadCut, match=re.escape(wanted)):
        split(resnet, "layer2.1.bn1")
    with pytest.raises(BadCut, match="beside it, the input would have to cross"):
        split(Two(lambda _s, x, h: h + x), "a")


def test_the_batch_size_may_cross_and_follows_the_stage() -> None:
    def rule(self: Any, x: Tensor, h: Tensor) -> Tensor:
        token: Tensor = self.token
        return torch.relu(h).view(x.shape[0], -1) * (x.size(0) * 2) + token.expand(x.size(dim=0), -1)

    module = Two(rule, token=nn.Parameter(torch.ones(3)))
    for rows in (2, 5):
        x = inputs(rows, 3)
        for at in ("a", "relu", "mul", "add"):
            assert torch.equal(split(module, at)(x), module(x))
        assert torch.equal(split(module, ("a", "relu"))(x), module(x))


def test_other_sizes_may_not_cross() -> None:
    module = Two(lambda _s, x, h: torch.relu(h).view(-1, x.shape[1]))
    with pytest.raises(BadCut, match="cannot cut at 'relu': beside it, a size of the input would have to cross"):
        split(module, "relu")
    assert [c.name for c in legal_cuts(module, (3,))] == ["view"]


def test_a_size_that_is_no_batch_size_is_found_out_when_it_crosses() -> None:
    def by_steps(_self: Two, _x: Tensor, h: Tensor) -> Tensor:
        turned = h.transpose(0, 1)
        return torch.relu(turned.transpose(0, 1)) * turned.shape[0]

    module = Two(by_steps)
    assert torch.equal(split(module, "a")(inputs(3, 3)), module(inputs(3, 3)))
    with pytest.raises(BadCut, match="a size that crosses this cut is 3 while the batch has 4 rows"):
        split(module, "relu").head(inputs(4, 3))


def test_a_parameter_belongs_to_one_party() -> None:
    token = nn.Parameter(torch.ones(3))
    twice = Two(lambda s, _x, h: torch.relu(h + s.token) * s.token, token=token)
    with pytest.raises(
        BadCut, match=r"'relu': token is used on both sides.*nearest legal cuts: a before it, mul after it"
    ):
        split(twice, "relu")
    assert "token" in split(twice, "a").body.state_dict()
    assert "token" in split(twice, "mul").head.state_dict()
    assert [c.name for c in legal_cuts(twice, (3,))] == ["a", "mul"]
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    tied = nn.Sequential(OrderedDict(a=a, r=nn.ReLU(), b=b, c=nn.ReLU(), d=nn.Linear(3, 3)))
    with pytest.raises(BadCut, match=r"(a|b)\.weight is used on both sides"):
        split(tied, "r")
    assert [c.name for c in legal_cuts(tied, (3,))] == ["b", "c"]
    shared = nn.ReLU()
    network = split(nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared), "1")
    assert network.head.get_submodule("1") is network.body.get_submodule("1") is shared


@pytest.mark.parametrize(
    ("at", "error", "message"),
    [
        (
            "layer9",
            UnknownName,
            r"unknown layer 'layer9'. Did you mean 'layer3' or 'layer2' or 'layer1'\? Known: avgpool",
        ),
        ("fc", BadCut, r"'fc': it is the output.*The nearest legal cuts: flatten before it"),
        (
            ("layer2", "layer1"),
            BadCut,
            r"second cut must come after the first; got layer2..layer1. In network order: norm",
        ),
        (("layer1", "layer1"), BadCut, "second cut must come after the first"),
        (("conv1", "layer1", "layer2"), BadCut, "after one layer or after two; got 3"),
        ("", UnknownName, "unknown layer ''"),
    ],
)
def test_wrong_names(at: str | tuple[str, ...], error: type[SplitguardError], message: str) -> None:
    module = make_model("resnet20", input_shape=(3, 8, 8), classes=4, seed=0)
    with pytest.raises(error, match=message):
        split(module, at)


def test_networks_that_cannot_be_followed() -> None:
    with pytest.raises(BadCut, match=r"cannot cut Two: torch.fx cannot follow its forward \(TraceError.*nn.Sequential"):
        split(Two(lambda _s, _x, h: h if h.sum() > 0 else -h), "a")
    with pytest.raises(BadCut, match="must return one tensor to be cut; in train mode it returns a tuple"):
        split(_Pair(), "a")
    lstm = nn.Sequential(OrderedDict(lstm=nn.LSTM(3, 4, batch_first=True), last=_Last(), fc=nn.Linear(4, 2)))
    with pytest.raises(BadCut, match=r"'lstm': what it hands over is not one tensor.*last.getitem after it"):
        split(lstm, "lstm")
    assert [c.name for c in legal_cuts(lstm, (5, 3))] == ["last.getitem", "last"]
    with pytest.raises(NotSupported, match=r"does not take inputs of shape \(4,\)"):
        legal_cuts(lstm, (4,))


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.a(x), x


class _Last(nn.Module):
    def forward(self, x: tuple[Tensor, Any]) -> Tensor:
        return x[0][:, -1]


def test_a_step_of_one_mode_only_is_no_cut() -> None:
    module = Two(lambda s, _x, h: torch.relu(h) if s.training else h.sigmoid().tanh())
    assert [c.name for c in legal_cuts(module, (3,))] == ["a"]
    with pytest.raises(BadCut, match=r"'relu': it is taken in train mode only. The nearest legal cuts: a before it"):
        split(module, "relu")
    with pytest.raises(BadCut, match="taken in eval mode only"):
        split(module, "tanh")


def test_aliases_name_the_same_cut() -> None:
    module = make_model("resnet20", input_shape=(3, 8, 8), classes=4, seed=0)
    found = {c.name: c for c in legal_cuts(module, (3, 8, 8))}
    assert {"layer1.2", "layer1.2.relu_1"} <= set(found["layer1"].aliases)
    everything = [n for c in found.values() for n in (c.name, *c.aliases)]
    assert len(everything) == len(set(everything)), "a name must mean one cut"
    assert_splits_exactly(lambda: copy.deepcopy(module), inputs(2, 3, 8, 8), ["layer1", *found["layer1"].aliases])
    for alias in found["layer1"].aliases:
        assert split(module, alias).cuts == ("layer1",)
    assert split(module, "layer1.2..layer2.2.relu_1").cuts == ("layer1", "layer2")


def test_legal_cuts_tell_what_crosses_and_are_those_that_split_takes() -> None:
    module = make_model("cnn", input_shape=(3, 16, 16), classes=4, seed=0)
    cuts = legal_cuts(module, (3, 16, 16))
    assert [c.name for c in cuts] == [n for n, _ in module.named_children()][:-1]
    for cut in cuts:
        network = split(module, cut.name)
        assert network(inputs(2, 3, 16, 16)).shape == (2, 4)
        smashed = network.head(inputs(2, 3, 16, 16))
        assert cut.shape == smashed.shape[1:] == cut_shapes(network, (3, 16, 16))[0]
        assert cut.bytes == smashed[0].numel() * 4
        assert cut.client_params == sum(p.numel() for p in network.head.parameters())
    assert [c.client_flops for c in cuts] == sorted(c.client_flops for c in cuts)
    # conv11: 3 maps of 3x3 into 64 of 16x16, a multiplication and an addition each.
    assert cuts[1].client_flops == 2 * 64 * 16 * 16 * 27


def test_what_has_not_one_row_a_sample_is_no_legal_cut() -> None:
    module = Two(lambda _s, _x, h: torch.relu(h.transpose(0, 1)).transpose(0, 1))
    assert [c.name for c in legal_cuts(module, (3,))] == ["a", "transpose_1"]
    with pytest.raises(BadCut, match=r"crosses at 'relu' must have one row a sample; it is \(3, 2\) for 2 inputs"):
        cut_shapes(split(module, "relu"), (3,))


def test_next_cuts_counts_legal_layers_further() -> None:
    cuts = legal_cuts(make_model("lenet", input_shape=(1, 8, 8), classes=3, seed=0), (1, 8, 8))
    assert [c.name for c in next_cuts(cuts, "conv1")][:3] == ["pool1", "conv2.0", "conv2"]
    assert next_cuts(cuts, "conv1.1") == next_cuts(cuts, "conv1")
    assert next_cuts(cuts, "fc2") == []
    with pytest.raises(BadCut, match=r"no legal cut is called 'fc3'; in network order: normalise, conv1\.0, conv1"):
        next_cuts(cuts, "fc3")


def test_overwriting_is_seen_through() -> None:
    def rule(_self: Any, _x: Tensor, h: Tensor) -> Tensor:
        kept = h
        h.relu_()
        return h * 2 + kept

    module = Two(rule)
    assert [c.name for c in legal_cuts(module, (3,))] == ["a", "relu", "add"], "after relu_, kept is its result"
    assert_splits_exactly(lambda: copy.deepcopy(module), inputs(4, 3), ["a", "relu", ("a", "relu"), "add"])


def _overwritten(_self: Any, _x: Tensor, h: Tensor) -> Tensor:
    y = h.flatten(1)
    h.relu_()
    return y


def _overwritten_for_nothing(_self: Any, _x: Tensor, h: Tensor) -> Tensor:
    y = h.flatten(1)
    _ = h.relu_() + 1
    return y


def _overwritten_and_counted(_self: Any, _x: Tensor, h: Tensor) -> Tensor:
    y = h.flatten(1)
    h.relu_()
    return y.reshape(h.size(0), -1)


def _measured_afterwards(_self: Any, _x: Tensor, h: Tensor) -> Tensor:
    y = h.flatten(1)
    return y.reshape(h.sin().size(0), -1)


def _normalised_for_nothing(self: Any, _x: Tensor, h: Tensor) -> Tensor:
    y = h.sin()
    self.norm(h)
    return y


@pytest.mark.parametrize(
    ("rule", "cuts", "why"),
    [
        (_overwritten, ["a"], "'flatten': relu, a later step, changes what lies before it"),
        (_overwritten_for_nothing, ["a"], "'flatten': relu, a later step, changes what lies before it"),
        (_overwritten_and_counted, ["a", "reshape"], "'flatten': beside it, a would have to cross"),
        (_measured_afterwards, ["a", "reshape"], "'flatten': beside it, a would have to cross"),
        (_normalised_for_nothing, ["a"], "'sin': norm, a later step, changes what lies before it"),
    ],
)
def test_where_a_later_step_changes_what_lies_before_is_no_legal_cut(rule: Any, cuts: list[str], why: str) -> None:
    module = Two(rule, norm=nn.BatchNorm1d(3))
    assert [c.name for c in legal_cuts(module, (3,))] == cuts
    assert_splits_exactly(lambda: copy.deepcopy(module), inputs(4, 3), [*cuts])
    with pytest.raises(BadCut, match=why):
        split(module, why.split("'")[1])


def test_a_result_that_is_overwritten_on_the_way_out_is_so_at_every_cut() -> None:
    class Late(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = layer(x)
            out = x.flatten(1)
            x.relu_()
            return out

    module = Late(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
    for at in ("a", "b", "logits", "a..logits"):
        assert torch.equal(split(module, at)(inputs(4, 3)), module(inputs(4, 3)))
