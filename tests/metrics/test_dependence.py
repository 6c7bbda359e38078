# SPDX-License-Identifier: Apache-2.0
"""Distance correlation and CKA against their definitions, closed forms and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics import dcor, linear_cka
from splitguard.metrics.dependence import _distances

Measure = Callable[[Tensor, Tensor], Tensor]
both = pytest.mark.parametrize("measure", [dcor, linear_cka])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(seed, "test rows"), dtype=dtype)


def dcor_by_definition(x: Tensor, z: Tensor) -> float:
    """Szekely, Rizzo and Bakirov's definition 3, in loops."""

    def centred(rows: list[list[float]]) -> list[list[float]]:
        n = len(rows)
        d = [[math.dist(a, b) for b in rows] for a in rows]
        mean = [sum(row) / n for row in d]
        grand = sum(mean) / n
        return [[d[j][k] - mean[j] - mean[k] + grand for k in range(n)] for j in range(n)]

    def dcov2(a: list[list[float]], b: list[list[float]]) -> float:
        n = len(a)
        return sum(a[j][k] * b[j][k] for j in range(n) for k in range(n)) / n**2

    a, b = centred(x.flatten(1).tolist()), centred(z.flatten(1).tolist())
    spread = dcov2(a, a) * dcov2(b, b)
    return math.sqrt(max(dcov2(a, b), 0) / math.sqrt(spread)) if spread > 0 else 0.0


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**20))
def test_dcor_is_its_definition(n: int, d: int, e: int, seed: int) -> None:
    x, z = normal(n, d, seed=seed), normal(n, e, seed=seed + 1)
    assert float(dcor(x, z)) == pytest.approx(dcor_by_definition(x, z), abs=1e-9)
    low_x, low_z = x.float(), z.float()
    assert float(dcor(low_x, low_z)) == pytest.approx(dcor_by_definition(low_x, low_z), abs=1e-6)


def test_dcor_of_two_normals_is_its_closed_form() -> None:
    """Szekely et al. 2007, theorem 7; of 1,500 rows the standard error is .016 (20 draws); four are allowed."""
    rho = 0.6
    inside = rho * math.asin(rho) + math.sqrt(1 - rho**2) - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    expected = math.sqrt(inside / (1 + math.pi / 3 - math.sqrt(3)))
    x, noise = normal(1500, 1), normal(1500, 1, seed=1)
    assert float(dcor(x, rho * x + math.sqrt(1 - rho**2) * noise)) == pytest.approx(expected, abs=4 * 0.016)


def test_dcor_sees_what_cka_does_not() -> None:
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    assert float(linear_cka(x, x.square())) == pytest.approx(0, abs=1e-12)
    assert float(dcor(x, x.square())) > 0.4


def test_squared_distances_would_make_it_the_cka() -> None:
    """What the docstring says of code that leaves out the square root."""
    x, z = normal(12, 3), normal(12, 4, seed=1)

    def centred(rows: Tensor) -> Tensor:
        d = (rows[:, None] - rows[None]).square().sum(-1)
        return d - d.mean(0, keepdim=True) - d.mean(1, keepdim=True) + d.mean()

    a, b = centred(x), centred(z)
    cosine = (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()
    torch.testing.assert_close(linear_cka(x, z), cosine)


def test_cka_is_its_definition_and_a_squared_correlation_in_one_dimension() -> None:
    x, z = normal(10, 30), normal(10, 4, seed=1)
    a, b = x - x.mean(0), z - z.mean(0)
    expected = (b.T @ a).square().sum() / (a.T @ a).norm() / (b.T @ b).norm()
    torch.testing.assert_close(linear_cka(x, z), expected)
    pearson = torch.corrcoef(torch.stack([x[:, 0], z[:, 0]]))[0, 1]
    torch.testing.assert_close(linear_cka(x[:, :1], z[:, :1]), pearson.square())


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_one_for_the_same_turned_moved_and_scaled(measure: Measure, dtype: torch.dtype) -> None:
    x = normal(20, 5, dtype=dtype)
    turn = torch.linalg.qr(normal(5, 5, seed=2, dtype=dtype)).Q
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for z in (x, x @ turn, 7 * x + 3, torch.cat([x, torch.zeros_like(x)], dim=1)):
        assert float(measure(x, z)) == pytest.approx(1, abs=tolerance)
    z = normal(20, 3, seed=3, dtype=dtype)
    for moved in (z @ torch.linalg.qr(normal(3, 3, dtype=dtype)).Q, -0.01 * z + 1):
        torch.testing.assert_close(measure(x, moved), measure(x, z), atol=100 * tolerance, rtol=0)
    torch.testing.assert_close(measure(x, z), measure(z, x))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_of_a_constant_it_is_exactly_zero_with_gradient_zero(
    measure: Measure, dtype: torch.dtype, value: float
) -> None:
    x = normal(33, 7, dtype=dtype)
    z = torch.full((33, 3, 4, 4), value, dtype=dtype, requires_grad=True)
    out = measure(x, z)
    assert float(out.detach()) == 0
    [gradient] = torch.autograd.grad(out, z)
    assert torch.equal(gradient, torch.zeros_like(z))


@both
def test_the_gradient_is_that_of_finite_differences(measure: Measure) -> None:
    x, z = normal(6, 3), normal(6, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: measure(x, v), z)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_leave_the_gradient_finite(measure: Measure, dtype: torch.dtype) -> None:
    x = normal(8, 3, dtype=dtype)
    z = normal(8, 50, seed=1, dtype=dtype)
    z[3] = z[5]
    x[2] = x[1]
    z.requires_grad_()
    [gradient] = torch.autograd.grad(measure(x, z), z)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) < 10
    doubled = z.detach().clone().requires_grad_()
    torch.testing.assert_close(measure(x, doubled), measure(x, z), atol=0, rtol=0)


def test_what_rounding_leaves_between_equal_rows_is_exactly_zero() -> None:
    """In float32 the product left up to 2.5e-7 of the largest squared length, in 4 of 56 such batches (one machine)."""
    for n in (5, 8, 17, 33, 64, 65, 100):
        for d in (3, 50, 784, 3072):
            for offset in (0, 10):
                z = normal(n, d, seed=n * d, dtype=torch.float32) + offset
                z[n - 1], z[n // 2] = z[0], z[1]
                distances = _distances(z)
                equal = (distances[0, n - 1], distances[1, n // 2], distances.diagonal().max())
                assert [float(d) for d in equal] == [0, 0, 0]
                exact = torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist").float()
                torch.testing.assert_close(distances, exact, rtol=1e-4, atol=1e-4)


def test_a_step_down_its_gradient_lowers_dcor() -> None:
    x = normal(32, 10)
    z = (x @ normal(10, 6, seed=1)).requires_grad_()
    before = dcor(x, z)
    [gradient] = torch.autograd.grad(before, z)
    assert float(dcor(x, z.detach() - gradient / gradient.norm())) < float(before.detach()) - 1e-3


@both
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 2), "N at least 2"),
        (torch.zeros(3, 2), r"got shapes \(3, 2\) and \(1, 2\)"),
        (torch.zeros(3), r"\(N, \.\.\.\)"),
        (torch.zeros(1, 2, dtype=torch.float64), "N at least 2"),
    ],
)
def test_what_has_no_rows_to_compare_is_refused(measure: Measure, x: Tensor, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        measure(x, torch.zeros(1, 2))


@both
def test_whole_numbers_and_mixed_types_are_refused(measure: Measure) -> None:
    with pytest.raises(BadSetting, match=r"one floating point dtype; got torch\.int64"):
        measure(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(BadSetting, match=r"torch\.float32 and torch\.float64"):
        measure(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.float64))
