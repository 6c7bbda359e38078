# SPDX-License-Identifier: Apache-2.0
"""What a stage holds, shares and draws."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.engine.cut import Stage, cut_shapes, legal_cuts, split
from splitguard.errors import BadCut
from splitguard.models import make_model
from splitguard.seeding import drawing, reseed
from tests.engine.exactly import inputs, small_vit


def test_stages_share_the_layers_and_together_have_the_state_of_the_network() -> None:
    module = small_vit()
    network = split(module, ("encoder.dropout", "encoder.layers.encoder_layer_0"))
    keys = [k for _, stage in network.stages for k in stage.state_dict()]
    assert sorted(keys) == sorted(module.state_dict())
    own = dict(module.named_parameters())
    for _, stage in network.stages:
        for name, parameter in stage.named_parameters():
            assert parameter is own[name]
    assert {"class_token", "encoder.pos_embedding"} <= set(network.head.state_dict())
    body = list(network.body.state_dict())
    assert all(k.startswith("encoder.layers.encoder_layer_0.") for k in body)
    assert len(body) == 12


def test_state_of_stages_loads_into_a_whole_network_and_back() -> None:
    def make(seed: int) -> nn.Module:
        return make_model("resnet20", input_shape=(3, 8, 8), classes=4, seed=seed)

    one, two = make(0), make(1)
    network = split(one, "layer2.0")
    two.load_state_dict({**network.head.state_dict(), **network.body.state_dict()})
    x = inputs(2, 3, 8, 8)
    assert torch.equal(one.eval()(x), two.eval()(x))
    other = split(make(2), "layer2.0").eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), one(x))


def test_copies_are_independent_and_pickles_compute_the_same() -> None:
    network = split(make_model({"lenet": {"dropout": 0.5}}, input_shape=(1, 8, 8), classes=3, seed=0), "pool1")
    x = inputs(2, 1, 8, 8)
    twin, thawed = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
    for mode in (True, False):
        results = []
        for one in (network, twin, thawed):
            with drawing(1):
                results.append(one.train(mode)(x))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(p.abs().sum() > 0 for p in network.parameters())


def test_stage_without_parameters_and_types_follow() -> None:
    network = split(make_model("lenet", input_shape=(1, 8, 8), classes=3, seed=0), ("conv1", "pool1"))
    assert list(network.body.parameters()) == []
    assert list(network.body.state_dict()) == []
    assert network.double()(inputs(2, 1, 8, 8).double()).dtype == torch.float64  # buffers outside the state moved too


def test_stages_start_in_the_modes_of_the_network_and_follow_train_and_eval() -> None:
    module = make_model("resnet20", input_shape=(3, 8, 8), classes=4, seed=0)
    module.eval()
    network = split(module, "layer1")
    assert not any(m.training for _, stage in network.stages for m in stage.modules())
    network.head.train()
    assert all(m.training for m in network.head.modules())
    assert not any(m.training for m in network.body.modules())


def test_splitting_leaves_the_network_and_global_randomness_alone(
    rng_untouched: Callable[[], AbstractContextManager[None]],
) -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.second = nn.Linear(4, 2)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.first(x)
            scale = torch.tensor([1.0, 2.0])
            return self.second(self.norm(F.dropout(self.last, 0.5, self.training))) * scale  # type: ignore[no-any-return]

    module = Remembers()
    module.norm.eval()
    before = dict(vars(module))
    with rng_untouched():
        network = split(module, "first")
        legal_cuts(module, (4,))
        cut_shapes(network, (4,))
    assert vars(module) == before
    assert module.training
    assert not module.norm.training
    x = inputs(3, 4)
    assert torch.equal(network.eval()(x), module.eval()(x))
    assert pickle.loads(pickle.dumps(network)) is not None


def test_layers_that_are_never_called_go_to_the_last_stage() -> None:
    class Spare(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
            spare = nn.Module()
            spare.inner = nn.BatchNorm1d(3)
            spare.alone = nn.Parameter(torch.zeros(2))
            self.add_module("spare", spare)

        def forward(self, x: Tensor) -> Tensor:
            a, b, *_ = self.children()
            return b(a(x))  # type: ignore[no-any-return]

    network = split(Spare(), "a")
    assert sorted(network.head.state_dict()) == ["a.bias", "a.weight"]
    assert {*network.head.state_dict(), *network.body.state_dict()} == set(Spare().state_dict())
    with pytest.raises(BadCut, match=r"cannot cut at 'spare.inner': the network never calls it. Legal cuts: a"):
        split(Spare(), "spare.inner")


def test_one_layer_under_two_names_keeps_both() -> None:
    layer = nn.Linear(3, 3)
    module = nn.Sequential(OrderedDict(a=layer, b=layer, c=nn.Linear(3, 3)))
    network = split(module, "a_1")
    assert sorted(network.head.state_dict()) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert network.head.get_submodule("a") is network.head.get_submodule("b") is layer


def test_the_draws_of_a_layer_depend_on_seed_and_name_not_on_the_cut_or_on_other_layers() -> None:
    module = nn.Sequential(OrderedDict(a=nn.Dropout(0.5), b=nn.Identity(), c=nn.Dropout(0.5), d=nn.Identity()))
    x = torch.ones(1, 400)

    def body(at: str, seed: int) -> Tensor:
        with drawing(seed):
            out: Tensor = split(module, at).body(x)
        return out

    assert torch.equal(body("a", 0), body("b", 0))
    assert not torch.equal(body("a", 0), body("a", 1))
    with drawing(0):
        first = split(module, "a").head(x)
    assert not torch.equal(first, body("a", 0))


def test_code_that_is_not_torchs_is_taken_to_draw() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.rand(1) > 2 or not torch.isfinite(x).all():
                raise AssertionError
            return x + torch.randn(x.shape)

    module = nn.Sequential(
        OrderedDict(a=nn.Linear(3, 3), noise=Noise(), b=nn.Linear(3, 3), drop=nn.Dropout(0.5), c=nn.ReLU())
    )
    x = inputs(4, 3)
    results = []
    for at in ("a", "noise", "b", "drop"):
        network = split(module, at)
        value = x
        for _, stage in network.stages:
            with drawing(5):
                value = stage(value)
        results.append(value)
    assert all(torch.equal(results[0], r) for r in results[1:])
    with pytest.raises(
        BadCut, match=r"lies within noise, which torch.fx cannot follow \(\w+: .*\). Legal cuts: a, noise"
    ):
        split(module, "noise.add")


def test_a_layer_that_draws_beside_its_input_is_kept_whole() -> None:
    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if not self.training or float(torch.rand(())) < 0.5 else x

    module = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), depth=Depth(), b=nn.Linear(3, 3)))
    network = split(module, "a")
    x = inputs(4, 3)
    seen = set()
    for seed in range(20):
        with drawing(seed):
            seen.add(network.body(x).sum().item())
    assert len(seen) == 2, "both ways must be taken"
    assert sorted(network.body.state_dict()) == ["b.bias", "b.weight", "depth.inner.bias", "depth.inner.weight"]
    with pytest.raises(BadCut, match="draws random numbers"):
        split(Depth(), "inner")


def test_no_reseeding_where_nothing_is_drawn() -> None:
    spec = {"lenet": {"dropout": 0.5}}
    network = split(make_model(spec, input_shape=(1, 8, 8), classes=3, seed=0), "conv2")
    body = network.body
    assert isinstance(body, Stage)
    assert [n.args[0] for n in body.graph.nodes if n.target is reseed] == ["dropout1", "dropout2"]
    body.eval()
    assert not [n for n in body.graph.nodes if n.target is reseed]
