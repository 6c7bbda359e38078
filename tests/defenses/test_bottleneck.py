# SPDX-License-Identifier: Apache-2.0
"""The narrowed cut: what crosses, what it costs, where its weights come from, and that it is trained and saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.api import BadSetting, Mode, NotSupported, build_defense
from splitguard.defenses.bottleneck import Bottleneck
from splitguard.engine.bench import Bench
from splitguard.engine.cut import legal_cuts, split
from splitguard.engine.session import Session
from tests.defenses.test_in_training import WAYS, run
from tests.engine.toys import data, lenet

INPUT = (1, 8, 8)


def wrapped(cut: str, channels: int | None = None, seed: int = 0) -> Any:
    defense, net = Bottleneck(channels=channels), lenet()
    defense.place((cut,), legal_cuts(net, INPUT))
    return defense.wrap(split(net, cut), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("cut", "channels", "crosses"),
    [("conv1", 2, (2, 8, 8)), ("pool1", None, (1, 4, 4)), ("flatten", None, (12,)), ("fc1", 5, (5,))],
)
def test_what_crosses_is_narrow_and_what_the_body_gets_is_wide(
    cut: str, channels: int | None, crosses: tuple[int, ...]
) -> None:
    found, plain = wrapped(cut, channels).eval(), split(lenet(), cut).eval()
    x = torch.rand(3, *INPUT, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sent, before = found.head(x), plain.head(x)
        assert sent.shape[1:] == crosses
        narrow, widen = found.head[1], found.body[0]
        axis = 1 if before.ndim == 4 else -1
        matrices = [layer.weight.flatten(1).double() for layer in (narrow, widen)]
        moved = before.movedim(axis, -1).double() @ matrices[0].T + narrow.bias
        torch.testing.assert_close(sent.movedim(axis, -1).double(), moved, rtol=1e-5, atol=1e-6)
        again = (moved @ matrices[1].T + widen.bias).movedim(-1, axis).float()
        torch.testing.assert_close(found(x), plain.body(again), rtol=1e-4, atol=1e-5)


def test_tokens_are_narrowed_in_their_last_dimension() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    defense = Bottleneck()
    defense.place(("1",), legal_cuts(net, (5, 6)))
    found = defense.wrap(split(net, "1"), torch.Generator())
    assert found.head(torch.rand(3, 5, 6)).shape == (3, 5, 2)
    assert found(torch.rand(3, 5, 6)).shape == (3, 2)


def test_its_weights_come_from_the_generator_alone(
    rng_untouched: Callable[[], AbstractContextManager[None]],
) -> None:
    with rng_untouched():
        one, same, other = (wrapped("pool1", 3, seed) for seed in (0, 0, 1))
    for a, b, c in zip(one.head[1].parameters(), same.head[1].parameters(), other.head[1].parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    # As torch's own layers: uniform within one over the root of the fan-in.
    assert 0.3 < float(one.head[1].weight.detach().abs().max()) <= 0.5
    assert float(one.body[0].weight.detach().abs().max()) <= 3**-0.5


@pytest.mark.parametrize(("mode", "cut"), WAYS)
def test_it_is_trained_with_both_parties_and_counted(mode: Mode, cut: str) -> None:
    session, plain = run({"bottleneck": {"channels": 2}}, mode, cut), run("none", mode, cut)
    assert session.cut_shapes[0] == (2, 4, 4)
    assert session.costs["client_params"] == plain.costs["client_params"] + 4 * 2 + 2
    assert session.costs["server_params"] == plain.costs["server_params"] + 2 * 4 + 4
    assert session.costs["client_flops"] == plain.costs["client_flops"] + 2 * 16 * 4 * 2
    saved = plain.costs["bytes_up"] - session.costs["bytes_up"]
    averaged = 2 * 2 * (4 * 2 + 2) * 4 if mode is Mode.SPLITFED else 0  # epochs, clients, parameters, bytes
    assert saved == 46 * 2 * 2 * 16 * 4 - averaged  # rows, epochs, channels, places, bytes
    once = run({"bottleneck": {"channels": 2}}, mode, cut, epochs=1)  # begins with the same weights
    added = [{k for k in s.split.head.state_dict() if k.startswith("1.")} for s in (session, once)]
    assert added == [{"1.weight", "1.bias"}] * 2
    for stage, layer in (("head", "1."), ("body", "0.")):
        states = [getattr(s.split, stage).state_dict() for s in (session, once)]
        for name in (layer + "weight", layer + "bias"):
            assert not torch.equal(states[0][name], states[1][name])


def test_a_frozen_head_is_pre_trained_with_its_narrow_layer() -> None:
    one, two = (run({"bottleneck": {}}, head="frozen", epochs=e, pretrain_epochs=2).split.head for e in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_saved_session_is_narrow_again(tmp_path: Path) -> None:
    spec: Any = [{"bottleneck": {"channels": 2}}, {"noise": {"sigma": 0.1}}]
    session = run(spec, precision="float64")
    session.save(tmp_path)
    loaded = Session.load(tmp_path, module=lenet(), data=data(2), defense=build_defense(spec))
    x = session.data.test.inputs.double()
    with torch.no_grad():
        assert torch.equal(loaded.split.head(x), session.split.head(x))
        assert torch.equal(loaded.split(x), session.split(x))


@pytest.mark.parametrize("first", [0, 1])
def test_beside_a_deeper_cut_the_width_is_that_of_the_cut_in_use(first: int) -> None:
    spec: list[Any] = [{"deeper-cut": {"layers": 2}}, {"bottleneck": {"channels": 3}}]
    session = run(spec if first == 0 else spec[::-1])
    assert (session.cuts, session.cut_shapes) == (("conv2",), ((3, 4, 4),))


def test_what_would_not_narrow_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"fewer than the 4 that cross at 'pool1', shape \(4, 4, 4\); got 4"):
        wrapped("pool1", 4)
    with pytest.raises(BadSetting, match="channels must be at least 1; got 0"):
        Bottleneck(channels=0)
    with pytest.raises(NotSupported, match="call place before wrap"):
        Bottleneck().wrap(split(lenet(), "pool1"), torch.Generator())


def test_nothing_else_changes_and_nothing_is_guaranteed() -> None:
    bench = Bench(Bottleneck())
    assert bench.smashed.shape == (8, 1, 6, 6)
    assert all(torch.equal(given, got) for _, given, got in bench.hooks(bench.smashed))
    assert bench.defense.privacy() == ()
