# SPDX-License-Identifier: Apache-2.0
"""Rounding to a few levels: by hand, its error, its gradient, and what an attacker learns of a level."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitguard.api import BadSetting, NotSupported, Phase
from splitguard.defenses.quantize import Quantize
from splitguard.engine.bench import Bench
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def quantize(**settings: Any) -> Quantize:
    """Bound, with the range [-1, 1] unless given."""
    defense = Quantize(**{"low": -1.0, "high": 1.0, **settings})
    Bench(defense)
    return defense


def test_with_32_bits_every_bit_stays() -> None:
    bench, smashed = Bench(Quantize(bits=32)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)


def test_by_hand() -> None:
    given = torch.tensor([[-9.0, -0.7, -0.6, 0.1, 0.9, 3.0]])
    two = quantize(bits=2, low=-1.0, high=2.0).mean_release(given)
    assert torch.equal(two, torch.tensor([[-1.0, -1.0, -1.0, 0.0, 1.0, 2.0]]))
    one = quantize(bits=1, low=-1.0, high=2.0).mean_release(given)
    assert torch.equal(one, torch.tensor([[-1.0, -1.0, -1.0, -1.0, 2.0, 2.0]]))


@given(st.integers(1, 16), st.floats(-5, 0), st.floats(0.1, 5), st.integers(0, 2**31))
def test_the_error_is_half_a_step_at_most(bits: int, low: float, width: float, seed: int) -> None:
    given = low + width * torch.rand(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    defense = Quantize(bits=bits, low=low, high=low + width)
    defense.load_state_dict({"range": [low, low + width]})
    sent = defense.mean_release(given)
    step = width / (2**bits - 1)
    assert float((sent - given).abs().max()) <= step / 2 * (1 + 1e-9)
    levels = (sent - low) / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-6)
    # What is sent is a level already, so sending it again changes it by rounding alone.
    torch.testing.assert_close(defense.mean_release(sent), sent, rtol=1e-12, atol=1e-12)


def test_the_gradient_passes_straight_through_within_the_range() -> None:
    for stochastic in (False, True):
        given = torch.tensor([[-3.0, -0.9, 0.2, 5.0]], requires_grad=True)
        sent = quantize(stochastic=stochastic).released_like(given, torch.Generator())
        (grad,) = torch.autograd.grad((sent * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), given)
        assert torch.equal(grad, torch.tensor([[0.0, 2.0, 3.0, 0.0]]))


def test_stochastic_rounding_keeps_the_mean_and_has_the_variance_of_a_coin() -> None:
    defense = quantize(bits=2, low=0.0, high=3.0, stochastic=True)
    given = torch.tensor([[0.25, 1.5, 2.9, 3.0, -4.0]], dtype=torch.float64)
    count = 40_000
    sent = defense.released_like(given.expand(count, 5), torch.Generator().manual_seed(2))
    share = torch.tensor([0.25, 0.5, 0.9, 0.0, 0.0], dtype=torch.float64)
    mean, spread = torch.tensor([[0.25, 1.5, 2.9, 3.0, 0.0]], dtype=torch.float64), (share * (1 - share)).sqrt()
    assert bool(((sent.mean(0) - mean).abs() <= 4 * spread / count**0.5 + 1e-12).all())
    torch.testing.assert_close(sent.std(0), spread, rtol=0.03, atol=1e-12)
    assert set(sent.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    torch.testing.assert_close(defense.mean_release(given), mean)


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_the_residual_is_0_exactly_for_what_is_rounded_to_what_arrived(bits: int, seed: int) -> None:
    defense = Quantize(bits=bits, low=-1.0, high=1.0)
    defense.load_state_dict({"range": [-1.0, 1.0]})
    gen = torch.Generator().manual_seed(seed)
    truth, guess = 3 * torch.rand(2, 4, 25, generator=gen, dtype=torch.float64) - 1.5
    sent = defense.mean_release(truth)
    assert float(defense.residual(truth, sent).abs().max()) < 1e-12
    left = defense.residual(guess, sent).abs() > 1e-12
    assert torch.equal(left, (defense.mean_release(guess) - sent).abs() > 1e-9)


def test_the_residual_is_how_far_a_guess_lies_outside() -> None:
    defense = quantize(bits=2, low=-1.0, high=2.0)  # steps of 1
    made = torch.tensor([[0.7, 0.2, -8.0, 9.0, 0.0]], requires_grad=True)
    left = defense.residual(made, torch.tensor([[0.0, 0.0, -1.0, 2.0, 2.0]]))
    torch.testing.assert_close(left, torch.tensor([[0.2, 0.0, 0.0, 0.0, -1.5]]))
    (grad,) = torch.autograd.grad(left.sum(), made)
    assert torch.equal(grad, torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0]]))


def test_stochastic_releases_are_matched_by_their_mean() -> None:
    assert quantize().overrides("residual")
    noisy = quantize(stochastic=True)
    assert not noisy.overrides("residual")  # so that attackers average them
    made, sent = rows(2, 3), rows(2, 3).flip(0)
    assert torch.equal(noisy.residual(made, sent), noisy.mean_release(made) - sent)


def test_an_automatic_range_is_that_of_auxiliary_rows() -> None:
    bench = Bench(Quantize(bits=3))
    with torch.no_grad():
        seen = bench.network.head(bench.deployment.aux.inputs)
    sent = bench.send(torch.tensor([[-1e9, 1e9]]))
    torch.testing.assert_close(sent, torch.stack([seen.min(), seen.max()])[None])
    [low, high] = Bench(Quantize(low=-7.0)).send(torch.tensor([[-1e9, 1e9]]))[0].tolist()
    assert (low, high) == (-7.0, pytest.approx(float(seen.max())))


def test_without_rows_or_order_there_is_no_range() -> None:
    deployment = Bench(Quantize()).deployment
    with pytest.raises(BadSetting, match="0 auxiliary rows give no range"):
        Quantize().bind(dataclasses.replace(deployment, aux=deployment.aux[:0]))
    with pytest.raises(BadSetting, match="give no range"):
        Quantize(low=1e9).bind(deployment)
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        Quantize().mean_release(rows(2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must lie in"),
        ({"bits": 17}, "bits must lie in"),
        ({"low": 1.0, "high": 1.0}, "low must be a finite number below high"),
        ({"low": math.nan}, "low must be a finite number"),
        ({"high": math.inf}, "low must be a finite number"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Quantize(**settings)


@pytest.mark.parametrize("stochastic", [False, True])
def test_in_training_only_levels_cross(stochastic: bool) -> None:
    session = run({"quantize": {"bits": 2, "stochastic": stochastic}}, epochs=2)
    for phase in ("training", "query"):
        found = session.transcript.releases(phase)
        assert found is not None
        assert 2 <= len(found.smashed.unique()) <= 4
    assert session.guarantees == ()
