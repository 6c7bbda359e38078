# SPDX-License-Identifier: Apache-2.0
"""Gradients Scrutinizer: pairs by hand, the score's closed form and its overlap, FSHA found, honest servers let be."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Exchange, Labels, NotSupported, Phase
from splitguard.building.detection import overlap, pair_similarity, suspicion
from splitguard.defenses.gradient_scrutinizer import GradientScrutinizer, honest_score
from splitguard.engine.bench import Bench
from tests.defenses.hijack import STEPS, session


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pairs_are_counted_once_whatever_the_lengths() -> None:
    """Labels 0, 0, 1 with gradients x, 5 x + 5 y, -2 x: cosines 1/sqrt(2); -1 and -1/sqrt(2)."""
    grad = torch.tensor([[1.0, 0.0], [5.0, 5.0], [-2.0, 0.0]])
    same, other = pair_similarity(grad, torch.tensor([0, 0, 1])) or (0.0, 0.0)
    assert same == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert other == pytest.approx(((1 - 1) / 2 + (1 - math.sqrt(0.5)) / 2) / 2)


def test_rows_without_a_direction_and_batches_without_pairs_are_left_out() -> None:
    grad = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert pair_similarity(grad, torch.tensor([0, 0, 0, 1])) == pytest.approx((1.0, 0.5))
    assert pair_similarity(grad, torch.tensor([0, 0, 0, 0])) is None
    assert pair_similarity(grad, torch.tensor([0, 1, 2, 3])) is None
    assert pair_similarity(grad[:2], torch.tensor([0, 1])) is None  # one of the two is 0


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ((0.0, 1.0), (0.0, 1.0), 1.0),
        ((0.0, 1.0), (0.5, 1.5), 1 / 3),
        ((0.0, 4.0), (1.0, 2.0), 1 / 4),
        ((0.0, 1.0), (2.0, 3.0), 0.0),  # the published code for honest servers gives min(1, 3) - min(0, 2) = 1 here
        ((1.0, 1.0), (1.0, 1.0), 1.0),
        ((1.0, 1.0), (2.0, 2.0), 0.0),
    ],
)
def test_the_overlap_is_intersection_over_union(
    first: tuple[float, float], second: tuple[float, float], share: float
) -> None:
    assert overlap(first, second) == overlap(second, first) == pytest.approx(share)


def test_honest_and_hijacked_curves_meet_one_formula() -> None:
    """Swapping the two curves changes the sign of the gap and nothing else, as the overlap is symmetric."""
    rows = [(0.6 + 0.01 * math.sin(t), 0.4 + 0.01 * math.cos(3 * t)) for t in range(20)]
    inner = math.log(1 / honest_score(rows) - 1), math.log(1 / honest_score([(d, s) for s, d in rows]) - 1)
    assert -inner[0] / 5 + 0.7 == pytest.approx(inner[1] / 5 - 0.7)


def test_the_score_is_the_closed_form() -> None:
    """Constant curves fit exactly and do not overlap: sigmoid(5 (G^0.4 * 2 * 1 - 0.7)); parabolas keep E at 0."""
    flat = [(0.6, 0.5)] * 12
    assert honest_score(flat) == pytest.approx(1 / (1 + math.exp(-5 * (0.1**0.4 * 2 - 0.7))))
    bent = [(0.9 - 0.001 * t**2, 0.1 + 0.002 * t**2) for t in range(12)]
    gap = 0.8 - 0.003 * sum(t**2 for t in range(12)) / 12
    assert honest_score(bent) == pytest.approx(1 / (1 + math.exp(-5 * (gap**0.4 * 2 - 0.7))))
    alike = [(0.9, 0.9)] * 12
    assert honest_score(alike) == pytest.approx(1 / (1 + math.exp(5 * 0.7)))


def test_two_bad_signs_do_not_make_a_good_one() -> None:
    """Curves as rough as can be, one within the other: both logarithms are negative, and their product is not."""
    rough = [(float(t % 2), float(t % 2) * 0.9 + 0.03) for t in range(20)]
    assert honest_score(rough) <= 1 / (1 + math.exp(5 * 0.7)) + 1e-12


def test_an_alarms_score_is_a_half_at_the_threshold() -> None:
    assert [suspicion(v, 0.3) for v in (0.0, 0.15, 0.3, 0.65, 1.0)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_the_alarm_rises_with_fsha_and_ends_the_session() -> None:
    run = session(GradientScrutinizer(), seed=0, hijacked=True)
    [(step, alarm)] = run.alarms
    assert alarm.stop
    assert alarm.score > 0.8
    assert step <= 30  # the window of 20, and batches of one class


def test_it_stays_calm_with_an_honest_server() -> None:
    """No alarm in 2 sessions, 120 judgements or more: a rate under 0.03 a judgement at 95 %, were they independent."""
    plain = session(None, seed=0, hijacked=False)
    runs = [session(GradientScrutinizer(), seed=seed, hijacked=False) for seed in (0, 1)]
    assert runs[0].digest == plain.digest  # watching changes no bit
    scores = [alarm.score for run in runs for _, alarm in run.alarms]
    assert 120 <= len(scores) <= 2 * STEPS
    assert max(scores) < 0.5


def exchange(grad: Tensor, labels: Tensor, client: int = 0) -> Exchange:
    return Exchange(0, 0, Phase.TRAINING, client, torch.arange(len(grad)), smashed=grad, labels=labels, cut_grad=grad)


def test_each_client_has_a_window_and_the_state_goes_on() -> None:
    one, two = GradientScrutinizer(window=4, stop=False), GradientScrutinizer(window=4, stop=False)
    labels = torch.arange(8) % 2
    grads = [torch.randn(8, 3, 2, generator=gen(i)) + 2 * (2 * labels - 1)[:, None, None] for i in range(6)]
    for grad in grads[:3]:
        assert one.alarm(exchange(grad, labels)) is None
    assert one.alarm(exchange(grads[3], labels, client=1)) is None
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    found = [d.alarm(exchange(grads[3], labels)) for d in (one, two)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].score < 0.5  # two classes that pull apart


def test_where_there_is_nothing_to_compare_it_says_so() -> None:
    with pytest.raises(NotSupported, match="gradient-scrutinizer tests a server against labels that the client sends"):
        Bench(GradientScrutinizer(), labels=Labels.CLIENT)
    with pytest.raises(NotSupported, match="the head is frozen"):
        Bench(GradientScrutinizer(), labels=Labels.SENT, head_frozen=True)
    probe = GradientScrutinizer(window=4)
    unsent = Exchange(0, 0, Phase.TRAINING, 0, torch.arange(4), smashed=torch.ones(4, 2))
    assert [probe.alarm(unsent) for _ in range(9)] == [None] * 9


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"window": 3}, "window must be a whole number of at least 4"),
        ({"warm_up": -1}, "warm_up must be a whole number of at least 0"),
        ({"gain": -1.0}, "gain must be positive"),
        ({"threshold": 1.0}, "threshold must lie above 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        GradientScrutinizer(**settings)
