# SPDX-License-Identifier: Apache-2.0
"""Withheld coordinates: fresh masks of the stated rate everywhere, and an attacker who knows which ones arrived."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Phase
from splitguard.building.likelihood import JointLikelihood
from splitguard.defenses.dropout import Dropout
from splitguard.engine.bench import Bench
from tests.attacks.views import convs, sent_view, smooth
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_at_rate_0_every_bit_stays() -> None:
    bench, smashed = Bench(Dropout(rate=0.0)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)
    assert torch.equal(bench.defense.residual(smashed, 0 * smashed), smashed)  # a zero that arrived is a zero


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("rate", [0.2, 0.75])
def test_what_arrives_is_exact_and_as_much_as_stated(rate: float, rescale: bool) -> None:
    bench, smashed = Bench(Dropout(rate=rate, rescale=rescale)), rows(40, 500)
    for phase in Phase:  # where it is deployed, too
        sent = bench.send(smashed, phase=phase, stream=2)
        arrived = sent != 0
        n = sent.numel()
        assert abs(float(arrived.double().mean()) - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / n)
        scale = 1 / (1 - rate) if rescale else 1.0
        assert torch.equal(sent[arrived], (scale * smashed)[arrived])


def test_the_mask_differs_from_row_to_row_and_from_sending_to_sending() -> None:
    bench, gen = Bench(Dropout(rate=0.5)), torch.Generator().manual_seed(0)
    one = rows(1, 4000).expand(2, 4000)
    masks = torch.stack([bench.defense.on_send(one, bench.context(torch.arange(2)), gen) != 0 for _ in range(2)])
    for first, second in ((masks[0, 0], masks[0, 1]), (masks[0, 0], masks[1, 0])):
        assert abs(float((first & second).double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_an_infinite_activation_is_withheld_too() -> None:
    sent = Bench(Dropout(rate=0.5)).send(torch.full((4, 50), math.inf))
    assert set(sent.unique().tolist()) == {0.0, math.inf}


def test_the_residual_asks_only_for_what_arrived() -> None:
    made = torch.tensor([[1.0, 2.0, 3.0, 0.0]], requires_grad=True)
    left = Dropout(rate=0.5).residual(made, torch.tensor([[2.0, 0.0, 7.0, 0.0]]))
    assert torch.equal(left, torch.tensor([[0.0, 0.0, -1.0, 0.0]]))
    (grad,) = torch.autograd.grad(left.sum(), made)
    assert torch.equal(grad, torch.tensor([[2.0, 0.0, 2.0, 0.0]]))


def test_a_mask_aware_attacker_is_at_rest_at_the_truth_and_one_who_is_not_is_not() -> None:
    heads, x = convs(2), smooth(3)
    made_by = [[0, 1], [0, 1], [1]]
    aware, naive = (
        JointLikelihood.of(sent_view(x, heads, made_by, defense=Dropout(rate=0.6), adaptive=adaptive), releases=8)
        for adaptive in (True, False)
    )
    assert float(aware.misfit(0.1)(x).max()) < 1e-6
    assert float(naive.misfit(0.1)(x).min()) > 1
    others = smooth(6, seed=9)
    assert float(aware.over(torch.cat([x, others]), 0.1).argmin(1).sub(torch.arange(3)).abs().max()) == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(BadSetting, match=r"rate must lie in \[0, 1\)"):
        Dropout(rate=rate)


def test_in_training_and_in_queries_a_part_crosses() -> None:
    session = run({"dropout": {"rate": 0.5, "rescale": False}}, head="frozen", epochs=3)
    for phase, truth in (("training", session.data.members), ("query", session.data.query.ids)):
        found = session.transcript.releases(phase)
        assert found is not None
        found, times = found.all_of(truth)
        with torch.no_grad():
            made = session.split.head.eval()(session.truth(truth).inputs).repeat_interleave(times, 0)
        there = made != 0
        arrived = found.smashed != 0
        torch.testing.assert_close(found.smashed[arrived], made[arrived])
        n = int(there.sum())
        assert abs(float(arrived[there].double().mean()) - 0.5) < 4 * math.sqrt(0.25 / n)
    assert session.guarantees == ()
