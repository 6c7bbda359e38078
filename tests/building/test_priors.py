# SPDX-License-Identifier: Apache-2.0
"""Total variation against closed forms; the spectrum against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitguard.building.priors import ROUNDING, Spectrum, total_variation
from splitguard.errors import BadSetting


def rows(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_constant_image_does_not_vary_and_a_ramp_by_its_slopes() -> None:
    down, across = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    ramp = (0.25 * down + 0.5 * across).expand(2, 3, 5, 7)
    assert torch.equal(total_variation(torch.full((2, 3, 5, 7), 0.4)), torch.zeros(2))
    assert torch.allclose(total_variation(ramp), torch.full((2,), 0.25**2 + 0.5**2))


def test_the_mean_over_a_batch_is_the_reference_code() -> None:
    x = rows(4, 3, 6, 5)
    count_h, count_w = x[0, :, 1:].numel(), x[0, :, :, 1:].numel()
    h, w = (x[:, :, 1:] - x[:, :, :-1]).square().sum(), (x[:, :, :, 1:] - x[:, :, :, :-1]).square().sum()
    assert torch.allclose(total_variation(x).mean(), (h / count_h + w / count_w) / len(x))


def test_total_variation_is_of_images() -> None:
    with pytest.raises(BadSetting, match="shape \\(3, 5\\)"):
        total_variation(torch.zeros(3, 5))
    assert torch.equal(total_variation(torch.rand(2, 3, 1, 1)), torch.zeros(2))


@settings(max_examples=15)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 6)),
    ),
    count=st.integers(2, 9),
)
def test_the_penalty_is_the_quadratic_form_of_the_inverse_of_what_colour_multiplies_by(
    shape: tuple[int, ...], count: int
) -> None:
    spectrum = Spectrum.fit(rows(count, *shape))
    size = spectrum.mean.numel()
    dense = spectrum.colour(torch.eye(size, dtype=torch.float64).view(size, *shape)).view(size, size)
    assert torch.allclose(dense, dense.T, atol=1e-12)
    assert float(torch.linalg.eigvalsh(dense).min()) > 0.99 * ROUNDING
    x = rows(3, *shape, seed=1)
    off = (x - spectrum.mean).flatten(1)
    expected = (off @ torch.linalg.inv(dense) * off).sum(1) / size
    assert torch.allclose(spectrum.penalty(x), expected, rtol=1e-6)


def test_one_scaled_step_reaches_the_bottom_of_the_penalty() -> None:
    spectrum = Spectrum.fit(rows(30, 2, 5, 4))
    x = rows(3, 2, 5, 4, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(spectrum.penalty(x).sum(), x)
    newton = x - spectrum.colour(gradient) * spectrum.mean.numel() / 2
    assert torch.allclose(newton, spectrum.mean.expand_as(x), atol=1e-9)


def test_it_recovers_a_covariance_that_is_diagonal_in_frequency() -> None:
    """Rows drawn from the Gaussian give its variances back within five standard errors."""
    true = Spectrum.fit(rows(50, 2, 4, 4))
    root = torch.linalg.cholesky(true.colour(torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)).view(32, 32))
    count = 4000
    draws = torch.randn(count, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64) @ root.T
    again = Spectrum.fit(draws.view(count, 2, 4, 4) + true.mean)
    own = torch.diagonal(true.covariance, dim1=-2, dim2=-1)
    off = torch.diagonal(again.covariance, dim1=-2, dim2=-1) - own
    assert float((off.abs() / (own * (2 / count) ** 0.5 + ROUNDING)).max()) < 5
    assert abs(float(again.penalty(draws.view(count, 2, 4, 4) + true.mean).mean()) - 1) < 0.01


def test_two_rows_are_the_least() -> None:
    with pytest.raises(BadSetting, match="at least 2 rows; got 1"):
        Spectrum.fit(rows(1, 1, 4, 4))
    with pytest.raises(BadSetting, match="one to three dimensions"):
        Spectrum.fit(rows(3, 1, 2, 2, 2))
