# SPDX-License-Identifier: Apache-2.0
"""Sigma from a target: the formula on auxiliary rows and on no others, one for all rows, and no epsilon."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from splitguard.api import BadSetting, NotSupported, Phase
from splitguard.defenses.dfil import DFIL
from splitguard.engine.bench import Bench
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_at_target_0_every_bit_stays() -> None:
    bench, smashed = Bench(DFIL(target=0.0)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)
    assert bench.defense.noise_std() == 0.0


def mean_trace(bench: Bench, inputs: Tensor) -> float:
    """Of the bench's head, by whole Jacobians."""
    head = bench.network.head.double()
    found = [float(jacobian(head, x[None].double()).square().sum()) for x in inputs]
    return sum(found) / len(found)


def test_sigma_is_the_formula_over_auxiliary_rows() -> None:
    bench = Bench(DFIL(target=0.04, probes=0))
    sigma = bench.defense.noise_std()
    assert sigma == pytest.approx(math.sqrt(0.04 * mean_trace(bench, bench.deployment.aux.inputs) / 36), rel=1e-5)
    estimated = Bench(DFIL(target=0.04, probes=64)).defense.noise_std()
    assert estimated == pytest.approx(sigma, rel=0.05)
    assert isinstance(bench.defense, DFIL)
    assert (bench.defense.reference(), bench.defense.reference(4)) == (0.04, 0.01)


class Squares(nn.Module):
    """A head whose Jacobian, 2x, differs from row to row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square()


def test_private_rows_do_not_enter_and_every_row_gets_the_same_sigma() -> None:
    """The bug of the reference code is sigma from the rows that are sent, in training one for each of them."""
    deployment = dataclasses.replace(Bench(DFIL()).deployment, head=Squares())
    defense = DFIL(target=0.01, probes=0)
    defense.bind(deployment)
    aux = deployment.aux.inputs
    sigma = math.sqrt(0.01 * float(4 * aux.square().flatten(1).sum(1).mean()) / 36)
    assert defense.noise_std() == pytest.approx(sigma, rel=1e-5)
    private = torch.cat([torch.zeros(1, 20_000), 1e4 * torch.ones(1, 20_000)])  # traces 0 and huge
    gen = torch.Generator().manual_seed(0)
    noise = defense.released_like(private.double(), gen) - private
    for row in noise:
        assert abs(float(row.std()) / sigma - 1) < 4 / (2 * 20_000) ** 0.5


def test_only_so_many_rows_are_looked_at() -> None:
    deployment = dataclasses.replace(Bench(DFIL()).deployment, head=Squares())
    defense = DFIL(target=1.0, probes=0, rows=2)
    defense.bind(deployment)
    two = deployment.aux.inputs[[0, -1]]
    assert defense.noise_std() ** 2 == pytest.approx(float(4 * two.square().flatten(1).sum(1).mean()) / 36, rel=1e-5)


def test_the_noise_has_the_stated_spread_and_is_fresh() -> None:
    bench, smashed, gen = Bench(DFIL(target=4.0)), rows(40, 500).double(), torch.Generator().manual_seed(1)
    sigma, ctx = bench.defense.noise_std(), bench.context(torch.arange(40))
    first, second = ((bench.defense.on_send(smashed, ctx, gen) - smashed) / sigma for _ in range(2))
    n = first.numel()
    for draw in (first, second):
        assert abs(float(draw.std()) - 1) < 4 / (2 * n) ** 0.5
        assert abs(float(draw.mean())) < 4 / n**0.5
    assert abs(float((first * second).mean())) < 4 / n**0.5


def test_it_is_no_epsilon() -> None:
    assert Bench(DFIL(target=100.0), head_frozen=True).defense.privacy() == ()


def test_without_rows_or_a_reaction_there_is_no_sigma() -> None:
    deployment = Bench(DFIL()).deployment
    dead = nn.Sequential(nn.Flatten(), nn.Threshold(9, 0))
    for change in ({"aux": deployment.aux[:0]}, {"head": dead}):
        with pytest.raises(BadSetting, match=r"mean trace of J\^T J over \d auxiliary rows must be positive"):
            DFIL().bind(dataclasses.replace(deployment, **change))
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        DFIL().noise_std()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": -1.0}, "target must be a finite number, 0 or more"),
        ({"target": math.inf}, "target must be a finite number"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"probes": -1}, "probes at least 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        DFIL(**settings)


def test_in_training_sigma_is_that_of_the_frozen_head() -> None:
    session = run({"dfil": {"target": 0.05, "probes": 0, "rows": 24}}, head="frozen", epochs=3)
    head = session.split.head.eval()
    traces = [float(jacobian(head, x[None]).square().sum()) for x in session.data.aux.inputs]
    sigma = math.sqrt(0.05 * sum(traces) / len(traces) / 64)
    assert session.defense.noise_std() == pytest.approx(sigma, rel=1e-4)
    found = session.transcript.releases("training")
    assert found is not None
    found, times = found.all_of(session.data.members)
    with torch.no_grad():
        made = head(session.truth(session.data.members).inputs).repeat_interleave(times, 0)
    noise = found.smashed - made
    assert abs(float(noise.std()) / sigma - 1) < 4 / (2 * noise.numel()) ** 0.5
    assert session.guarantees == ()
