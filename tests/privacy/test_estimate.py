# SPDX-License-Identifier: Apache-2.0
"""The game flags each usual mistake at epsilon 4, T 4, batch 32, and neither of two correct mechanisms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from splitguard.defenses.gaussian import Gaussian
from splitguard.defenses.laplace import Laplace
from splitguard.engine.defense import Defense
from splitguard.engine.mechanism import as_mechanism
from splitguard.errors import BadSetting
from splitguard.privacy import epsilon, sigma
from splitguard.privacy.estimate import Claim, Estimate, estimate_epsilon
from splitguard.privacy.game import Send, play
from splitguard.seeding import generator

CLIP, DELTA, RELEASES, EPSILON, BATCH = 0.8, 1e-5, 4, 4.0, 32
SHAPE = (4, 2, 2)
#: Trials of each side of each world: enough to flag every mistake here; what the command takes by default.
QUICK, FULL = 220, 1000
SIGMA = sigma(epsilon=EPSILON, clip=CLIP, releases=RELEASES, delta=DELTA)
CLAIM = Claim(EPSILON, DELTA, CLIP, RELEASES, gaussian=True)


def clipped(z: Tensor, bound: float = CLIP) -> Tensor:
    """Each row to norm ``bound``."""
    norms = z.flatten(1).norm(dim=1).clamp(min=1e-12)
    out: Tensor = z * (bound / norms).clamp(max=1).view(-1, 1, 1, 1)
    return out


def noise(z: Tensor, gen: torch.Generator) -> Tensor:
    out: Tensor = SIGMA * torch.randn(z.shape, generator=gen)
    return out


def correct(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped(z) + noise(z, gen)


def whole_tensor(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return z * min(CLIP / float(z.norm()), 1) + noise(z, gen)


def no_clip(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return z + noise(z, gen)


def batch_bound(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """To sqrt(B) C, as if the bound of the batch were that of a row."""
    return clipped(z, CLIP * len(z) ** 0.5) + noise(z, gen)


def last_axis(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    factor: Tensor = (CLIP / z.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    return z * factor + noise(z, gen)


def largest_norm(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Divided by the largest norm of the batch: a row's bound holds, and the other rows tell of it."""
    largest: Tensor = z.flatten(1).norm(dim=1).max()
    return z * (CLIP / float(largest)) + noise(z, gen)


def batch_norm(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped((z - z.mean(0)) / (z.std(0) + 1e-3)) + noise(z, gen)


def scaled_noise(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    size: Tensor = clipped(z).flatten(1).norm(dim=1).view(-1, 1, 1, 1) / CLIP
    return clipped(z) + size * noise(z, gen)


def reused_over_epochs() -> Send:
    kept: dict[int, Tensor] = {}

    def send(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        if release == 0:
            kept[0] = noise(z, gen)
        return clipped(z) + kept[0]

    return send


def reused_over_rows(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    return clipped(z) + noise(z[:1], gen)


def half_sensitivity(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Calibrated as if two clipped rows were C apart, not 2C."""
    return clipped(z) + noise(z, gen) / 2


def one_release(z: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """Calibrated as if each row were sent once."""
    out: Tensor = clipped(z) + noise(z, gen) / RELEASES**0.5
    return out


BUGS: dict[str, Callable[[], Send]] = {
    "no clip": lambda: no_clip,
    "bound sqrt(B) C": lambda: batch_bound,
    "norm over the last axis": lambda: last_axis,
    "division by the largest norm": lambda: largest_norm,
    "BatchNorm": lambda: batch_norm,
    "noise scaled by the norm": lambda: scaled_noise,
    "noise reused over epochs": reused_over_epochs,
    "noise reused over rows": lambda: reused_over_rows,
    "C claimed for 2C": lambda: half_sensitivity,
    "T forgotten": lambda: one_release,
}


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
@pytest.mark.parametrize("send", [correct, whole_tensor])
def test_a_correct_mechanism_is_not_flagged(send: Send, trials: int) -> None:
    found = estimated(send, trials=trials)
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


def played(defense: Defense, shape: tuple[int, ...] = SHAPE, releases: int = 1) -> Estimate:
    mechanism = as_mechanism(defense, shape=shape, batch=4, releases=releases)
    assert mechanism.send is not None
    game = {"shape": shape, "batch": 4, "trials": QUICK}
    return estimate_epsilon(mechanism.send, mechanism.claim, generator=generator(0, "game"), **game)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_a_claim_against_the_zero_row_is_tried_with_the_zero_row(kind: Callable[..., Defense]) -> None:
    found = played(kind(epsilon=2.0, adjacency="zero-out"), releases=2)
    assert not found.flagged, str(found)
    assert {test.world for test in found.tests} == {"zero or far"}


class TooLittle(Laplace):
    """A sixth of the noise that it claims."""

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return super().unit_noise(like, generator) / 6


@pytest.mark.parametrize("shape", [SHAPE, (784,)])
def test_a_clip_without_an_l2_sensitivity_is_saturated_whatever_the_shape(shape: tuple[int, ...]) -> None:
    assert not played(Laplace(epsilon=2.0), shape).flagged
    assert played(TooLittle(epsilon=2.0), shape).flagged
