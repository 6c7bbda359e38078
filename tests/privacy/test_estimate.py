# SPDX-License-Identifier: Apache-2.0
"""The game flags each usual mistake at epsilon 4, T 4, batch 32, and neither of two correct mechanisms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.planted import BATCH, BUGS, CLAIM, CLIP, CORRECT, DELTA, EPSILON, RELEASES, SHAPE, SIGMA, correct
from splitguard.defenses.gaussian import Gaussian
from splitguard.defenses.laplace import Laplace
from splitguard.engine.defense import Defense
from splitguard.engine.mechanism import as_mechanism
from splitguard.errors import BadSetting
from splitguard.privacy import epsilon
from splitguard.privacy.estimate import Claim, Estimate, estimate_epsilon
from splitguard.privacy.game import Send, play
from splitguard.seeding import generator

#: Trials of each side of each world: enough to flag every mistake here; what the command takes by default.
QUICK, FULL = 220, 1000


def estimated(send: Send, claim: Claim = CLAIM, **more: int) -> Estimate:
    setting = {"batch": BATCH, "trials": QUICK, **more}
    return estimate_epsilon(send, claim, shape=SHAPE, generator=generator(0, "game"), **setting)


@pytest.mark.parametrize("bug", BUGS)
def test_each_mistake_is_flagged(bug: str) -> None:
    found = estimated(BUGS[bug]())
    assert found.flagged, str(found)
    assert "FALSE" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_each_mistake_is_flagged_by_the_whole_game(bug: str) -> None:
    assert estimated(BUGS[bug](), trials=FULL).flagged


@pytest.mark.parametrize("trials", [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_mechanism_is_not_flagged(name: str, trials: int) -> None:
    found = estimated(CORRECT[name](), trials=trials)
    assert not found.flagged, str(found)
    assert found.ceiling > 2 * found.claimed  # so that not being flagged says something


def test_the_strongest_test_comes_near_the_truth() -> None:
    """The worst pair is in the game: the limit lies below the exact mu by little more than its confidence costs."""
    found = estimated(correct, trials=FULL)
    exact = 2 * CLIP * RELEASES**0.5 / SIGMA
    assert CLAIM.mu == pytest.approx(exact, rel=1e-6)
    assert 0.5 * exact < found.lower < exact


def test_an_epsilon_is_tested_where_no_mu_is_claimed() -> None:
    """Laplace noise on one coordinate: pure epsilon T 2C / b; half of it is exceeded."""
    scale = 2.0

    def send(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        uniform = (torch.rand(z.shape, generator=gen) - 0.5).clamp(min=-0.4999999)
        return z.flatten(1).clamp(-CLIP, CLIP).view_as(z) - scale * uniform.sign() * torch.log1p(-2 * uniform.abs())

    true = 2 * CLIP / scale
    assert not estimated(send, Claim(RELEASES * true * 16, 0.0, CLIP, RELEASES, gaussian=False)).flagged
    assert estimated(send, Claim(true, 0.0, CLIP, RELEASES, gaussian=False)).flagged


def test_an_identity_shows_the_ceiling_and_no_more() -> None:
    found = estimated(lambda z, ids, release, gen: z, trials=80)
    assert found.lower == pytest.approx(found.ceiling)
    assert math.isfinite(found.ceiling)


def test_every_trial_has_ids_of_its_own() -> None:
    seen: list[int] = []

    def send(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        if release == 0:
            seen.extend(ids.tolist())
        return z

    list(play(send, shape=(3,), clip=1.0, batch=2, releases=2, trials=8, generator=generator(0, "x")))
    assert len(seen) == len(set(seen)) == 3 * 2 * 8 * 2


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(BadSetting, match="batch of 2 rows"):
        estimated(correct, batch=1)
    with pytest.raises(BadSetting, match="keep every row"):
        estimated(lambda z, ids, release, gen: z[:1], trials=8)
    with pytest.raises(BadSetting, match="keep the shape"):
        estimated(lambda z, ids, release, gen: z[:, :1], trials=8)
    with pytest.raises(BadSetting, match="not finite"):
        estimated(lambda z, ids, release, gen: z / 0, trials=8)


def test_the_claim_is_the_accountants() -> None:
    assert epsilon(sigma=SIGMA, clip=CLIP, releases=RELEASES, delta=DELTA) == pytest.approx(EPSILON, rel=1e-6)


def played(
    defense: Defense, shape: tuple[int, ...] = SHAPE, releases: int = 1, *, batch: int = 4, trials: int = QUICK
) -> Estimate:
    mechanism = as_mechanism(defense, shape=shape, batch=batch, releases=releases)
    assert mechanism.send is not None
    game = {"shape": shape, "batch": batch, "trials": trials}
    return estimate_epsilon(mechanism.send, mechanism.claim, generator=generator(0, "game"), **game)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_a_claim_against_the_zero_row_is_tried_with_the_zero_row(kind: Callable[..., Defense]) -> None:
    found = played(kind(epsilon=2.0, adjacency="zero-out"), releases=2)
    assert not found.flagged, str(found)
    assert {test.world for test in found.tests} == {"zero or far"}


class HalfNoise(Gaussian):
    """Half of the noise that it claims."""

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return super().unit_noise(like, generator) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flagged"), [(Gaussian, False), (HalfNoise, True)])
def test_the_shipped_gaussian_is_not_flagged_by_the_whole_game(kind: type[Gaussian], flagged: bool) -> None:
    """As deployed: its own clip, noise and ledger at epsilon 4, not a function that does what it should do."""
    found = played(kind(epsilon=EPSILON, delta=DELTA), releases=RELEASES, batch=BATCH, trials=FULL)
    assert (found.measure, found.flagged) == ("mu", flagged), str(found)
    assert found.claimed == pytest.approx(CLAIM.mu, rel=1e-6)
    assert found.ceiling > 2 * found.claimed


class TooLittle(Laplace):
    """A sixth of the noise that it claims."""

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return super().unit_noise(like, generator) / 6


@pytest.mark.parametrize("shape", [SHAPE, (784,)])
def test_a_clip_without_an_l2_sensitivity_is_saturated_whatever_the_shape(shape: tuple[int, ...]) -> None:
    assert not played(Laplace(epsilon=2.0), shape).flagged
    assert played(TooLittle(epsilon=2.0), shape).flagged
