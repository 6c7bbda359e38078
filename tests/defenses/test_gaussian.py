# SPDX-License-Identifier: Apache-2.0
"""The clipped Gaussian release: exact nulls, closed forms, what it refuses, and what it counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitguard.api import DEFENSES, NotSupported, Phase
from splitguard.building.rows_alone import clip_rows
from splitguard.defenses.gaussian import Gaussian, Protected
from splitguard.engine.bench import Bench
from splitguard.errors import BadSetting, Diverged, ReleaseRefused, SplitguardError


def rows(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


def test_without_clip_and_noise_every_bit_stays() -> None:
    bench = Bench(Gaussian(sigma=0, clip="none"))
    smashed = rows(8, 4, 6, 6, scale=1e3)
    for phase in Phase:
        assert bench.send(smashed, phase=phase) is smashed
    assert bench.defense.released_like(smashed, bench.gen()) is smashed
    assert bench.defense.mean_release(smashed) is smashed
    assert (bench.defense.noise_std(), bench.defense.privacy()) == (0.0, ())


def test_the_clip_in_closed_form() -> None:
    bench = Bench(Gaussian(sigma=0, clip=1.0))
    sent = bench.send(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, -7.0]]))
    torch.testing.assert_close(sent[0], torch.tensor([0.6, 0.8]), rtol=2e-7, atol=0)
    assert torch.equal(sent[1:], torch.tensor([[0.3, 0.4], [0.0, 0.0], [0.0, -1.0]]))
    assert bench.defense.privacy() == ()


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    count=st.integers(1, 6),
    clip=st.floats(1e-3, 1e3),
    spread=st.floats(-4, 4),
    seed=st.integers(0, 2**31),
)
def test_rows_of_any_shape_are_clipped_whole_and_alone(
    shape: list[int], count: int, clip: float, spread: float, seed: int
) -> None:
    gen = torch.Generator().manual_seed(seed)
    given = torch.randn(count, *shape, generator=gen) * 10 ** (
        spread * torch.rand(count, *[1] * len(shape), generator=gen)
    )
    got = clip_rows(given, clip)
    exact = given.double().numpy()
    norms = np.sqrt((exact.reshape(count, -1) ** 2).sum(1)).reshape(-1, *[1] * len(shape))
    np.testing.assert_allclose(got.numpy(), exact * np.minimum(1, clip / norms), rtol=1e-6)  # eight ulps
    assert float(got.flatten(1).double().norm(dim=1).max()) <= clip * (1 + 1e-6)
    for i in range(count):
        assert torch.equal(got[i : i + 1], clip_rows(given[i : i + 1], clip))


def test_a_short_type_is_rounded_only_after_the_noise() -> None:
    many = rows(64, 500, scale=9).bfloat16()
    assert float(clip_rows(many, 1.0).norm(dim=1).max()) <= 1 + 1e-6
    bench = Bench(Gaussian(sigma=1.0, clip=1.0))
    assert bench.send(many).dtype is torch.bfloat16


def test_the_gradient_goes_through_the_clip() -> None:
    wide = rows(5, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: clip_rows(z, 1.5), wide)
    (grad,) = torch.autograd.grad(clip_rows(zero := torch.zeros(1, 3, requires_grad=True), 1.0).sum(), zero)
    assert torch.equal(grad, torch.ones(1, 3))


def test_the_noise_has_the_stated_spread_and_is_fresh() -> None:
    bench, gen = Bench(Gaussian(sigma=0.7, clip=2.0)), torch.Generator().manual_seed(3)
    smashed, ids = rows(40, 1, 10, 50), torch.arange(40)
    first, second = (bench.defense.on_send(smashed, bench.context(ids), gen) for _ in range(2))
    noise = torch.stack([first, second]) - bench.defense.mean_release(smashed)
    n = noise[0].numel()
    for draw in noise:
        assert abs(float(draw.mean())) < 4 * 0.7 / n**0.5
        assert abs(float(draw.std()) / 0.7 - 1) < 4 / (2 * n) ** 0.5
    assert abs(float((noise[0] * noise[1]).mean()) / 0.7**2) < 4 / n**0.5
    along = [noise[0].diff(dim=d) for d in (0, 3)]  # equal noise along an axis would have differences of 0
    assert all(abs(float(d.std()) / (0.7 * 2**0.5) - 1) < 8 / (2 * n) ** 0.5 for d in along)


def test_only_the_named_phases_are_protected() -> None:
    smashed = rows(2, 3)
    protected: dict[Protected, set[Phase]] = {"training": {Phase.TRAINING}, "query": {Phase.EVALUATION, Phase.QUERY}}
    for phase, kept in protected.items():
        bench = Bench(Gaussian(sigma=1.0, clip=1.0, phases=(phase,)))
        changed = {p for p in Phase if not torch.equal(bench.send(smashed, phase=p), smashed)}
        assert changed == kept


@pytest.mark.parametrize(
    ("smashed", "ids", "error", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), 2, BadSetting, "floating point.*int64"),
        (torch.ones(2, 3), 3, BadSetting, "an id for each of N rows.*3 ids"),
        (torch.ones(2), 2, BadSetting, r"shape \(N, ...\)"),
        (torch.tensor([[1.0, math.nan]]), 1, Diverged, "not finite, so no clip bounds it"),
        (torch.tensor([[1.0, math.inf]]), 1, Diverged, "not finite"),
    ],
)
def test_what_cannot_be_protected_is_not_sent(
    smashed: Tensor, ids: int, error: type[SplitguardError], message: str
) -> None:
    bench = Bench(Gaussian(sigma=1.0, clip=1.0), releases=1)
    with pytest.raises(error, match=message):
        bench.send(smashed, torch.arange(ids))
    bench.send(torch.ones(3, 3), torch.arange(3))  # and it was not counted


def test_the_ledger_refuses_what_was_not_planned() -> None:
    bench, smashed = Bench(Gaussian(sigma=1.0, clip=1.0), releases=3), rows(2, 3)
    ids = torch.tensor([5, 6])
    for phase, times in ((Phase.TRAINING, 3), (Phase.EVALUATION, 1), (Phase.QUERY, 1)):
        own = ids + 10 * times + len(phase)
        for _ in range(times):
            bench.send(smashed, own, phase=phase)
        with pytest.raises(ReleaseRefused, match="more often than planned"):
            bench.send(smashed, own, phase=phase)
    bench.send(smashed, ids + 2)


def test_what_is_not_protected_is_not_counted() -> None:
    bench, ids = Bench(Gaussian(sigma=1.0, clip=1.0, phases=("query",)), releases=1), torch.arange(2)
    for _ in range(4):
        bench.send(rows(2, 3), ids)
    bench.send(rows(2, 3), ids, phase=Phase.QUERY)
    with pytest.raises(ReleaseRefused):
        bench.send(rows(2, 3), ids, phase=Phase.QUERY)


@pytest.mark.parametrize("bind", [True, False])
def test_a_resumed_session_goes_on_with_the_same_noise_and_counts(bind: bool) -> None:
    settings: dict[str, Any] = {"epsilon": 4.0, "clip": "auto"}
    bench, gen, ids = Bench(Gaussian(**settings), releases=2), torch.Generator().manual_seed(1), torch.arange(8)
    bench.defense.on_send(bench.smashed, bench.context(ids), gen)
    state, stream = bench.defense.state_dict(), gen.get_state()
    wanted = bench.defense.on_send(bench.smashed, bench.context(ids), gen)
    twin = Bench(Gaussian(**settings), releases=2, bind=bind)
    twin.defense.load_state_dict(state)
    again = torch.Generator()
    again.set_state(stream)
    assert torch.equal(twin.defense.on_send(bench.smashed, bench.context(ids), again), wanted)
    assert twin.defense.privacy() == bench.defense.privacy() != ()
    with pytest.raises(ReleaseRefused):
        twin.send(bench.smashed, ids)


def test_before_bind_it_refuses_to_act() -> None:
    defense = Gaussian()
    assert (defense.state_dict(), defense.privacy()) == ({}, ())
    defense.load_state_dict({})
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        defense.mean_release(rows(2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.0, "sigma": 1.0}, "both given"),
        ({"epsilon": 0.0}, "epsilon must lie above 0"),
        ({"epsilon": math.inf}, "epsilon must lie above 0 and below inf"),
        ({"sigma": -1.0}, "sigma must lie above 0"),
        ({"sigma": math.nan}, "sigma must lie above 0"),
        ({"delta": 0.0}, "delta must lie above 0 and below 1"),
        ({"delta": 1.0}, "delta must lie above 0 and below 1"),
        ({"clip": 0.0}, "clip must lie above 0"),
        ({"clip": math.inf, "sigma": 1.0}, "clip must lie above 0 and below inf"),
        ({"clip": "atuo"}, "unknown clip 'atuo'. Did you mean 'auto'"),
        ({"clip": "none"}, "no sensitivity, so no epsilon"),
        ({"phases": ()}, "phases is empty"),
        ({"phases": ("trainign",)}, "unknown phase 'trainign'. Did you mean 'training'"),
        ({"adjacency": "zeroout"}, "unknown adjacency 'zeroout'. Did you mean 'zero-out'"),
    ],
)
def test_settings_at_odds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Gaussian(**settings)


def test_settings_that_mean_the_same_are_the_same() -> None:
    assert Gaussian() == Gaussian(epsilon=8.0)
    built = DEFENSES.build({"gaussian": {"sigma": 1, "phases": ["query", "training"]}})
    assert built == Gaussian(sigma=1.0)
    assert Gaussian(sigma=1.0, phases="query").phases == ("query",)  # type: ignore[arg-type]  # as written in a file
