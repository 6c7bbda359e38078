# SPDX-License-Identifier: Apache-2.0
"""Traces against a whole Jacobian, and the reference line where it is exact: a linear head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from splitguard.errors import BadSetting
from splitguard.privacy.dfil import dfil, jacobian_trace, mse_reference, sigma_dfil
from splitguard.seeding import drawing, generator


def draws(seed: int = 0) -> torch.Generator:
    return generator(seed, "dfil")


def head() -> nn.Module:
    """With everything that a head may do in place or by choice of the largest."""
    with drawing(0):
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()
        )
    return net.double().eval()


def attention() -> nn.Module:
    with drawing(0):
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()


@pytest.mark.parametrize(("make", "shape"), [(head, (1, 6, 6)), (attention, (3, 8))])
def test_the_trace_is_the_sum_of_squares_of_the_whole_jacobian(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    net, x = make(), torch.rand(20, *shape, generator=draws(), dtype=torch.float64)
    slow = [float(jacobian(net, row[None], vectorize=False).square().sum()) for row in x]
    torch.testing.assert_close(jacobian_trace(net, x), torch.tensor(slow, dtype=torch.float64))


def test_hutchinson_is_unbiased_and_gets_there() -> None:
    net, x = head(), torch.rand(4, 1, 6, 6, generator=draws(), dtype=torch.float64)
    exact = jacobian_trace(net, x)
    parts = torch.stack([jacobian_trace(net, x, probes=20, generator=draws(s)) for s in range(60)])
    error = parts.std(0) / len(parts) ** 0.5
    assert bool(((parts.mean(0) - exact).abs() < 4 * error).all())
    assert float((error / exact).max()) < 0.03


def test_random_signs_are_exact_for_orthogonal_columns() -> None:
    matrix = torch.linalg.qr(torch.randn(7, 5, generator=draws(), dtype=torch.float64))[0] * 3
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    found = jacobian_trace(lambda x: x @ matrix.T, zeros, probes=1, generator=draws())
    torch.testing.assert_close(found, torch.full((2,), 9.0 * 5, dtype=torch.float64))


def attacked(matrix: Tensor, sigma: float, releases: int, prior: float | None) -> float:
    """Measured MSE a coordinate of the best unbiased attacker, or of the posterior mean under N(0, prior)."""
    count, width = 20_000, matrix.shape[1]
    spread = 1.0 if prior is None else math.sqrt(prior)
    x = spread * torch.randn(count, width, generator=draws(1), dtype=torch.float64)
    noise = torch.randn(releases, count, len(matrix), generator=draws(2), dtype=torch.float64)
    sent = (x @ matrix.T + sigma * noise).mean(0)
    precision = releases / sigma**2 * matrix.T @ matrix
    known = precision + (0 if prior is None else torch.eye(width, dtype=torch.float64) / prior)
    guess = torch.linalg.solve(known, releases / sigma**2 * matrix.T @ sent.T).T
    return float((guess - x).square().mean())


@pytest.mark.parametrize("releases", [1, 4])
def test_a_linear_head_is_where_it_is_exact(releases: int) -> None:
    """Least squares meets 1/dFIL on orthogonal columns; the posterior mean lies below, at 1/(dFIL + 1/s^2)."""
    sigma, prior = 0.5, 0.2
    matrix = 1.5 * torch.linalg.qr(torch.randn(9, 6, generator=draws(), dtype=torch.float64))[0]
    trace = float(jacobian_trace(lambda x: x @ matrix.T, torch.zeros(1, 6, dtype=torch.float64))[0])
    assert trace == pytest.approx(6 * 1.5**2)
    known = dfil(trace, width=6, sigma=sigma, releases=releases)
    line, below = mse_reference(known), mse_reference(known, prior=1 / prior)
    slack = 4 * (2 / (20_000 * 6)) ** 0.5  # four standard errors of a mean square
    assert attacked(matrix, sigma, releases, None) == pytest.approx(line, rel=slack)
    assert attacked(matrix, sigma, releases, prior) == pytest.approx(below, rel=slack)
    assert below < line * (1 - 2 * slack)  # so that the line holds for unbiased attackers only


def test_where_some_directions_show_less_the_line_is_below_least_squares() -> None:
    sigma = 0.5
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64))
    known = dfil(float(matrix.square().sum()), width=3, sigma=sigma)
    exact = sigma**2 * float((1 / torch.diag(matrix).square()).mean())
    slack = 0.06
    assert attacked(matrix, sigma, 1, None) == pytest.approx(exact, rel=slack)
    assert mse_reference(known) < exact / 3
    assert mse_reference(known, prior=1.0) < attacked(matrix, sigma, 1, 1.0)


@given(st.floats(0.1, 100), st.integers(1, 1000), st.floats(1e-4, 1), st.integers(1, 50))
def test_sigma_hits_the_target_and_releases_add_up(trace: float, width: int, target: float, releases: int) -> None:
    sigma = sigma_dfil(trace=trace, width=width, target=target)
    one = dfil(trace, width=width, sigma=sigma)
    assert mse_reference(one) == pytest.approx(target, rel=1e-12)
    assert dfil(trace, width=width, sigma=sigma, releases=releases) == pytest.approx(releases * one, rel=1e-12)
    assert mse_reference(releases * one) == pytest.approx(target / releases, rel=1e-12)


def test_both_ends() -> None:
    assert dfil(3.0, width=2, sigma=0.0) == math.inf
    assert mse_reference(math.inf) == 0.0
    assert mse_reference(0.0) == math.inf
    assert len(jacobian_trace(lambda x: x, torch.zeros(0, 3))) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jacobian_trace(lambda x: x, torch.zeros(1, 2), probes=0, generator=draws()),
            "probes must be at least",
        ),
        (lambda: jacobian_trace(lambda x: x, torch.zeros(1, 2), probes=3), "with a generator"),
        (lambda: dfil(-1.0, width=1, sigma=1.0), "trace must be at least 0"),
        (lambda: dfil(1.0, width=0, sigma=1.0), "width must be at least 1"),
        (lambda: dfil(1.0, width=1, sigma=1.0, releases=0), "releases must be at least 1"),
        (lambda: sigma_dfil(trace=1.0, width=1, target=math.inf), "target must be at least 0 and finite"),
        (lambda: mse_reference(-1.0), "must be at least 0"),
    ],
)
def test_what_lies_outside_its_range_is_refused(call: Any, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        call()
