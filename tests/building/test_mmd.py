# SPDX-License-Identifier: Apache-2.0
"""The maximum mean discrepancy: by hand, by loops, under the null, and as something to descend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from splitguard.building.mmd import ALPHAS, mk_mmd
from splitguard.errors import BadSetting


def sample(count: int, seed: int, *, shift: float = 0.0, shape: tuple[int, ...] = (3, 2)) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=draws, dtype=torch.float64) + shift


def test_two_points_against_two_points_by_hand() -> None:
    """On a line, {0, 1} against {2, 3}: distances squared 1, 1 within and 4, 9, 1, 4 across."""
    one, other = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[2.0], [3.0]]).double()
    mean = 2 * (1 + 1 + 4 + 9 + 1 + 4) / 16  # each pair in both orders, over 16 with the diagonal
    k = {d: math.exp(-d / (2 * mean)) for d in (1, 4, 9)}
    across = (2 * k[4] + k[9] + k[1]) / 4
    assert float(mk_mmd(one, other, alphas=[1.0])) == pytest.approx(2 * k[1] - 2 * across, rel=1e-12)
    biased = 2 * (2 + 2 * k[1]) / 4 - 2 * across
    assert float(mk_mmd(one, other, alphas=[1.0], unbiased=False)) == pytest.approx(biased, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7)])
def test_it_equals_sums_over_pairs(n: int, m: int) -> None:
    one, other = sample(n, 0), sample(m, 1, shift=0.5)
    rows = [*one.flatten(1), *other.flatten(1)]
    squared = [[float((a - b).square().sum()) for b in rows] for a in rows]
    mean = sum(map(sum, squared)) / len(rows) ** 2
    k = [[sum(math.exp(-d / (2 * alpha * mean)) for alpha in ALPHAS) for d in line] for line in squared]
    own = sum(k[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    theirs = sum(k[i][j] for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
    across = sum(k[i][j] for i in range(n) for j in range(n, n + m)) / (n * m)
    assert float(mk_mmd(one, other)) == pytest.approx(own + theirs - 2 * across, rel=1e-9)


def test_equal_samples_are_at_0_by_the_biased_and_below_by_the_unbiased() -> None:
    one = sample(6, 0)
    assert float(mk_mmd(one, one, unbiased=False)) == pytest.approx(0, abs=1e-12)
    assert float(mk_mmd(one, one)) < -0.1


def test_its_expectation_is_0_under_the_null_and_only_if_unbiased() -> None:
    draws = [(sample(10, 2 * i), sample(10, 2 * i + 1)) for i in range(200)]
    for unbiased in (True, False):
        values = torch.tensor([float(mk_mmd(a, b, unbiased=unbiased)) for a, b in draws])
        error = float(values.std()) / len(values) ** 0.5
        assert (abs(float(values.mean())) < 4 * error) is unbiased


def test_it_grows_with_the_shift_up_to_2_a_kernel() -> None:
    found = [float(mk_mmd(sample(30, 0), sample(30, 1, shift=s))) for s in (0.0, 0.5, 1.0, 1000.0)]
    assert found == sorted(found)
    assert found[-1] < 2 * len(ALPHAS)


def test_the_shift_and_the_scale_of_all_rows_change_nothing() -> None:
    one, other = sample(6, 0), sample(6, 1, shift=0.3)
    want = float(mk_mmd(one, other))
    assert float(mk_mmd(one + 1e4, other + 1e4)) == pytest.approx(want, rel=1e-6)
    assert float(mk_mmd(1e-3 * one, 1e-3 * other)) == pytest.approx(want, rel=1e-9)


def test_the_gradient_is_that_of_differences_with_the_bandwidth_held() -> None:
    """Against central differences of the sum with the mean squared distance frozen where the gradient is taken."""
    one, other = sample(3, 0, shape=(2,)).requires_grad_(), sample(4, 1, shape=(2,))
    (gradient,) = torch.autograd.grad(mk_mmd(one, other), one)
    pooled = torch.cat([one.detach(), other])
    scale = torch.cdist(pooled, pooled).square().mean()

    def value(moved: Tensor) -> float:
        rows = torch.cat([moved, other])
        squared = torch.cdist(rows, rows).square()
        k = torch.stack([torch.exp(-squared / (2 * a * scale)) for a in ALPHAS]).sum(0)
        return float((k[:3, :3].sum() - 3 * len(ALPHAS)) / 6 - 2 * k[:3, 3:].mean())

    step = 1e-5
    for i in range(3):
        for j in range(2):
            moved = torch.zeros_like(pooled[:3])
            moved[i, j] = step
            slope = (value(one.detach() + moved) - value(one.detach() - moved)) / (2 * step)
            assert float(gradient[i, j]) == pytest.approx(slope, abs=1e-7)


def test_equal_rows_have_a_finite_gradient() -> None:
    one = torch.zeros(4, 3, requires_grad=True)
    for other in (torch.zeros(4, 3), torch.ones(4, 3)):
        (gradient,) = torch.autograd.grad(mk_mmd(one, other), one)
        assert bool(torch.isfinite(gradient).all())


def test_descent_on_it_moves_one_sample_towards_the_other() -> None:
    one, other = sample(40, 0, shape=(2,)).requires_grad_(), 2 * sample(40, 1, shape=(2,)) + 3
    before, apart = mk_mmd(one, other).detach(), (one.mean(0) - other.mean(0)).detach().norm()
    optimizer = torch.optim.Adam([one], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(mk_mmd(one, other))
        optimizer.step()
    assert mk_mmd(one, other).detach() < 0.05 * before
    assert (one.mean(0) - other.mean(0)).detach().norm() < 0.3 * apart


@pytest.mark.parametrize(
    ("one", "other", "alphas", "told"),
    [
        ((1, 3), (4, 3), (1.0,), r"at least 2 rows each .* got \(1, 3\) and \(4, 3\)"),
        ((4, 3), (4, 2), (1.0,), "of one shape"),
        ((4, 3), (4, 3), (), "must be positive, one or more"),
        ((4, 3), (4, 3), (1.0, 0.0), "must be positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    one: tuple[int, ...], other: tuple[int, ...], alphas: tuple[float, ...], told: str
) -> None:
    with pytest.raises(BadSetting, match=told):
        mk_mmd(torch.zeros(one), torch.zeros(other), alphas=alphas)
