# SPDX-License-Identifier: Apache-2.0
"""The distance of two sets of images, against closed forms and scipy's matrix root."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from splitguard.errors import BadSetting
from splitguard.metrics import frechet, frechet_alexnet, lpips_available
from splitguard.metrics.sets import LEAST


def sample(count: int, width: int, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=draws, dtype=torch.float64)
    return torch.randn(count, width, generator=draws, dtype=torch.float64) @ mix + seed


def test_equal_samples_are_no_distance_apart_and_a_shift_is_its_square() -> None:
    left = sample(50, 6, 0)
    assert frechet(left, left) == pytest.approx(0, abs=1e-9)
    assert frechet(left, left + 2) == pytest.approx(6 * 2**2)


def test_in_one_dimension_it_is_the_distance_of_means_and_deviations() -> None:
    left, right = sample(40, 1, 1), 3 * sample(60, 1, 2)
    wanted = (left.mean() - right.mean()) ** 2 + (left.std() - right.std()) ** 2
    assert frechet(left, right) == pytest.approx(float(wanted))


def test_it_is_the_formula_with_scipys_root() -> None:
    left, right = sample(80, 5, 3), sample(70, 5, 4)
    first, second = np.cov(left.numpy().T), np.cov(right.numpy().T)
    root = sqrtm(first @ second)
    gap = float((left.mean(0) - right.mean(0)).square().sum())
    wanted = gap + float(np.trace(first + second - 2 * np.real(root)))
    assert frechet(left, right) == pytest.approx(wanted, rel=1e-9)


def test_few_images_are_no_set_and_other_shapes_are_refused() -> None:
    few = torch.zeros(20, 1, 8, 8)
    assert frechet_alexnet(few, few) is None
    with pytest.raises(BadSetting, match="two samples"):
        frechet(sample(5, 2, 0), sample(5, 3, 0))


@pytest.mark.slow
def test_noise_lies_further_from_images_than_other_images_do() -> None:
    if not lpips_available():
        pytest.skip("AlexNet's weights are not on this machine")
    draws = torch.Generator().manual_seed(0)
    flat = torch.rand(2 * LEAST, 1, 1, 1, generator=draws).expand(-1, 1, 16, 16)
    same = frechet_alexnet(flat[:LEAST], flat[LEAST:])
    noise = frechet_alexnet(flat[:LEAST], torch.rand(LEAST, 1, 16, 16, generator=draws))
    assert same is not None
    assert noise is not None
    assert 0 <= same < noise / 20
