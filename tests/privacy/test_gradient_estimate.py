# SPDX-License-Identifier: Apache-2.0
"""The game of gradient canaries flags each usual mistake of DP-SGD, and neither of two correct mechanisms."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.planted import (
    BATCH,
    CLAIM,
    CLIP,
    DELTA,
    HEAD_BUGS,
    HEAD_CORRECT,
    RELEASES,
    SHAPE,
    SIGMA,
    planted_head,
)
from splitguard.defenses.dp_sgd_head import DpSgdHead
from splitguard.engine.canaries import CanaryHead, canary_step
from splitguard.engine.mechanism import as_mechanism
from splitguard.errors import BadSetting, NotSupported
from splitguard.privacy import Guarantee, epsilon
from splitguard.privacy.estimate import Claim, Estimate, estimate_gradient_epsilon
from splitguard.privacy.game import WORLDS
from splitguard.privacy.gradient_game import GRADIENT_STATISTICS, Step, play_gradients
from splitguard.seeding import generator
from tests.commands import runner

FULL = 1000


def estimated(step: Step, claim: Claim = CLAIM, **more: int) -> Estimate:
    setting = {"batch": 4, "trials": 60, **more}
    return estimate_gradient_epsilon(step, claim, shape=SHAPE, generator=generator(0, "canaries"), **setting)


def clipped_sum(rows: Tensor) -> Tensor:
    norms = rows.flatten(1).norm(dim=1).clamp(min=1e-12)
    return torch.einsum("i,i...", (CLIP / norms).clamp(max=1), rows)


def correct(sigma: float = SIGMA) -> Step:
    return lambda rows, ids, number, gen: clipped_sum(rows) + sigma * torch.randn(SHAPE, generator=gen)


def one_noise(rows: Tensor, ids: Tensor, number: int, gen: torch.Generator) -> Tensor:
    """One number for all weights."""
    return clipped_sum(rows) + SIGMA * torch.randn((), generator=gen)


def scaled_noise(rows: Tensor, ids: Tensor, number: int, gen: torch.Generator) -> Tensor:
    """Noise in units of what it is added to."""
    total = clipped_sum(rows)
    return total + float(total.norm()) * SIGMA / CLIP * torch.randn(SHAPE, generator=gen)


def reused_noise() -> Step:
    """The first step's at every step."""
    kept: dict[int, Tensor] = {}

    def step(rows: Tensor, ids: Tensor, number: int, gen: torch.Generator) -> Tensor:
        if number == 0:
            kept[0] = SIGMA * torch.randn(SHAPE, generator=gen)
        return clipped_sum(rows) + kept[0]

    return step


@pytest.mark.parametrize(
    ("step", "statistic"),
    [
        (one_noise, "along minus across"),
        (scaled_noise, "energy"),
        (reused_noise(), "alternating matched filter"),
    ],
    ids=["one noise for all weights", "noise in units of the sum", "noise reused over steps"],
)
def test_a_mistake_is_flagged_by_the_statistic_that_is_there_for_it(step: Step, statistic: str) -> None:
    found = estimated(step)
    assert found.flagged, str(found)
    assert statistic in {test.statistic for test in found.tests if test.lower > found.claimed}


def test_a_correct_sum_is_not_flagged_and_the_game_comes_near_the_truth() -> None:
    sigma = 1.5 * CLIP
    exact = 2 * CLIP * 2**0.5 / sigma
    claim = Claim(epsilon(sigma=sigma, clip=CLIP, releases=2, delta=DELTA), DELTA, CLIP, 2, gaussian=True)
    assert claim.mu == pytest.approx(exact, rel=1e-6)
    found = estimated(correct(sigma), claim, trials=300)
    assert not found.flagged, str(found)
    assert 0.5 * exact < found.lower < exact
    assert found.ceiling > 1.5 * found.claimed  # so that not being flagged says something
    assert len(found.tests) == len(WORLDS) * len(GRADIENT_STATISTICS)


def played(defense: DpSgdHead, *, releases: int = RELEASES, **more: int) -> Estimate:
    """The game on the defense's own optimizer."""
    setting = {"batch": BATCH, "trials": FULL, **more}
    one = as_mechanism(defense, shape=SHAPE, batch=setting["batch"], releases=releases)
    assert one.step is not None
    assert (one.channel, one.claim.clip, one.claim.releases) == ("head-weights", 1.0, releases)
    return estimate_gradient_epsilon(one.step, one.claim, shape=SHAPE, generator=generator(0, "canaries"), **setting)


@pytest.mark.parametrize("bug", ["no clip", "clip of the batch's mean", "one factor for the batch"])
def test_a_planted_bug_of_the_optimizer_is_flagged(bug: str) -> None:
    found = played(planted_head(HEAD_BUGS[bug]), releases=1, trials=60)
    assert found.flagged, str(found)


def test_the_optimizer_as_it_is_is_not_flagged_and_its_canaries_are_seen() -> None:
    found = played(DpSgdHead(epsilon=8.0), releases=1, batch=4, trials=90)
    assert not found.flagged, str(found)
    assert found.lower > 0.1 * found.claimed


@pytest.mark.slow
@pytest.mark.parametrize("bug", HEAD_BUGS)
def test_each_planted_bug_is_flagged_by_the_whole_game(bug: str) -> None:
    found = played(planted_head(HEAD_BUGS[bug]))
    assert found.flagged, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAD_CORRECT)
def test_a_correct_head_is_not_flagged_by_the_whole_game(name: str) -> None:
    found = played(planted_head(HEAD_CORRECT[name]))
    assert not found.flagged, str(found)
    assert 0.5 * found.claimed < found.lower  # what is flagged elsewhere would be seen here


def test_statistics_by_hand() -> None:
    """Rows (2,), a batch of 2, two steps; the sum of the rows over 100, and 1 more on the second weight."""

    def step(rows: Tensor, ids: Tensor, number: int, gen: torch.Generator) -> Tensor:
        return rows.sum(0) / 100 + torch.tensor([0.0, 1.0])

    setting: dict[str, Any] = {"shape": (2,), "clip": 1.0, "batch": 2, "releases": 2, "trials": 8}
    axis, flat, zero = play_gradients(step, **setting, generator=generator(0, "hand"))
    # Along the axis +-1 + .005, across it 1; signs +, -.
    assert axis.left[0].tolist() == pytest.approx([2, 2, 1.005**2 + 0.995**2 + 2, 0.01])
    assert axis.right[0].tolist() == pytest.approx([-2, -2, 1.005**2 + 0.995**2 + 2, 0.01])
    # In the flat direction nothing lies across.
    assert flat.left[0, :2].tolist() == pytest.approx([2, 2])
    # 100 C or 0 at both steps.
    assert zero.left[0].tolist() == pytest.approx([0, 2 * (1.005 - 1), 2 * (1.005**2 + 1), 2.01])
    assert zero.right[0].tolist() == pytest.approx([0, 2 * (0.005 - 1), 2 * (0.005**2 + 1), 0.01])


def test_the_canaries_are_the_gradients_of_the_rows() -> None:
    """Without a clip that is reached and without noise, a step moves the weights by the sum of the rows."""
    defense = DpSgdHead(noise=0.0, clip=1e6)
    with pytest.raises(NotSupported, match="claims no epsilon for the head-weights"):
        as_mechanism(defense, shape=SHAPE, batch=5, releases=2)
    step = canary_step(defense, SHAPE)
    rows = torch.randn(5, *SHAPE, generator=generator(0, "rows"))
    for number in range(2):
        moved = step(rows, torch.arange(5), number, generator(0, "none"))
        torch.testing.assert_close(moved, rows.sum(0), rtol=1e-4, atol=1e-5)
    assert len(list(CanaryHead(SHAPE).parameters())) == 4
    assert CanaryHead((1,))(torch.tensor([[3.0]])).tolist() == [[3.0]]


def test_head_and_optimizer_are_fresh_in_each_trial() -> None:
    made: list[object] = []
    step = canary_step(bound(planted_head(made.append)), SHAPE)
    for number in (0, 1, 0, 1):
        step(torch.zeros(2, *SHAPE), torch.arange(2), number, generator(0, "x"))
    assert len(made) == len(set(map(id, made))) == 2


def bound(defense: DpSgdHead) -> DpSgdHead:
    as_mechanism(defense, shape=SHAPE, batch=2, releases=2)
    return defense


class Counted(DpSgdHead):
    """Claims what it claims against a row that is left out, as Opacus does."""

    def privacy(self) -> tuple[Guarantee, ...]:
        [told] = super().privacy()
        return (Guarantee(**{**told.as_dict(), "adjacency": "add-remove"}),)


@pytest.mark.parametrize("defense", [DpSgdHead(epsilon=4.0, adjacency="zero-out"), Counted(adjacency="zero-out")])
def test_a_claim_against_no_gradient_is_tried_with_a_zero_gradient(defense: DpSgdHead) -> None:
    claim = as_mechanism(defense, shape=SHAPE, batch=4, releases=2).claim
    assert (claim.worlds, claim.clip, claim.gaussian) == (WORLDS[2:], 1.0, True)


@pytest.mark.parametrize("channel", ["inputs", "labels"])
def test_other_channels_are_refused_with_the_one_to_take(channel: str) -> None:
    with pytest.raises(NotSupported, match=f"{channel} are tried where the head is frozen, .* with channel head-weigh"):
        as_mechanism(DpSgdHead(), shape=SHAPE, batch=4, releases=2, channel=channel)


def test_the_command_plays_with_canaries_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    splitguard = runner(monkeypatch, capsys)
    short = ("--trials", "8", "--releases", "2", "--batch", "4")
    ran = splitguard("estimate", "dp-sgd-head", "--set", "epsilon=4", *short, "--json")
    found = json.loads(ran.out)
    assert (ran.status, found["flagged"], found["channel"], found["measure"]) == (0, False, "head-weights", "mu")
    assert (found["claim"]["epsilon"], found["claim"]["releases"]) == (pytest.approx(4), 2)
    table = splitguard("estimate", "dp-sgd-head", *short).out
    assert "claimed for a row's own gradients in the head's weights" in " ".join(table.split())
    refused = splitguard("estimate", "gaussian", "--channel", "head-weights")
    assert (refused.status, "claims no epsilon for the head-weights" in " ".join(refused.err.split())) == (2, True)


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(BadSetting, match="batch of 2 rows"):
        estimated(correct(), batch=1)
    with pytest.raises(BadSetting, match="must move the weights whose gradients it is given"):
        estimated(lambda rows, ids, number, gen: rows, trials=8)
    with pytest.raises(BadSetting, match="not finite"):
        estimated(lambda rows, ids, number, gen: rows.sum(0) * math.inf, trials=8)
