# SPDX-License-Identifier: Apache-2.0
"""NoPeek's penalty against the definition, its nulls, and that a head trained with it gives away less."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Batch, NotSupported
from splitguard.defenses.nopeek import NoPeek
from splitguard.engine.bench import Bench


def batch(count: int = 12) -> Batch:
    gen = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 1, 3, 3, generator=gen, dtype=torch.float64), torch.arange(count), None)


def definition(x: Tensor, z: Tensor) -> float:
    """Distance correlation from its double sums, as in Szekely, Rizzo, Bakirov (2007)."""

    def centred(rows: Tensor) -> np.ndarray:
        flat = rows.detach().flatten(1).double().numpy()
        far = np.array([[math.dist(a, b) for b in flat] for a in flat])
        out = np.empty_like(far)
        for j, k in np.ndindex(*far.shape):
            out[j, k] = far[j, k] - far[j].mean() - far[:, k].mean() + far.mean()
        return out

    a, b = centred(x), centred(z)
    n = len(a) ** 2
    return math.sqrt((a * b).sum() / n / math.sqrt((a * a).sum() / n * (b * b).sum() / n))


@pytest.mark.parametrize("weight", [0.5, 1.0, 30.0])
def test_the_penalty_is_the_weight_times_the_definition(weight: float) -> None:
    given, gen = batch(), torch.Generator()
    smashed = torch.tanh(given.inputs.flatten(1) @ torch.ones(9, 4, dtype=torch.float64).tril())
    got = NoPeek(weight=weight).penalty(given, smashed, gen)
    assert got is not None
    assert float(got) == pytest.approx(weight * definition(given.inputs, smashed), rel=1e-10)


def test_what_is_only_moved_and_scaled_is_fully_dependent() -> None:
    given = batch()
    got = NoPeek(weight=1.0).penalty(given, 3 - 2 * given.inputs, torch.Generator())
    assert got is not None
    assert float(got) == pytest.approx(1.0, rel=1e-12)


def test_nothing_is_computed_at_weight_0_or_for_one_row() -> None:
    given = batch()
    assert NoPeek(weight=0.0).penalty(given, given.inputs, torch.Generator()) is None
    one = Batch(given.inputs[:1], given.ids[:1], None)
    assert NoPeek(weight=1.0).penalty(one, one.inputs, torch.Generator()) is None


def test_a_narrower_type_of_smashed_data_is_met() -> None:
    given = batch()
    smashed = given.inputs.float().square().requires_grad_()
    got = NoPeek(weight=2.0).penalty(given, smashed, torch.Generator())
    assert got is not None
    assert float(got.detach()) == pytest.approx(2 * definition(given.inputs, smashed), rel=1e-5)
    (grad,) = torch.autograd.grad(got, smashed)
    assert bool(grad.abs().sum() > 0)


def test_a_head_trained_for_it_depends_less_on_inputs_it_never_saw() -> None:
    gen = torch.Generator().manual_seed(5)
    inputs = torch.rand(192, 1, 2, 2, generator=gen)
    head = torch.randn(4, 8, generator=gen).requires_grad_()

    def smashed(rows: Tensor) -> Tensor:
        return torch.tanh(rows.flatten(1) @ head)

    before = definition(inputs[128:], smashed(inputs[128:]))
    optimizer = torch.optim.Adam([head], lr=0.05)
    for _ in range(60):
        seen = Batch(inputs[:128], torch.arange(128), None)
        penalty = NoPeek(weight=2.0).penalty(seen, smashed(seen.inputs), gen)
        assert penalty is not None
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    after = definition(inputs[128:], smashed(inputs[128:]))
    assert before > 0.9
    assert after < 0.7


def test_a_frozen_head_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"the head is frozen.*changes nothing"):
        Bench(NoPeek(), head_frozen=True)
    Bench(NoPeek(weight=0.0), head_frozen=True)


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(BadSetting, match="weight must be a finite number, 0 or more"):
        NoPeek(weight=weight)
