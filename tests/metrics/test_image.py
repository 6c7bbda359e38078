# SPDX-License-Identifier: Apache-2.0
"""MSE, PSNR and SSIM against scikit-image and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics import mse, psnr, ssim, ssim_window


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeding.generator(seed, "test images"))


def near(truth: Tensor, noise: float, seed: int = 1) -> Tensor:
    draws = torch.randn(truth.shape, generator=seeding.generator(seed, "test noise"))
    return (truth + noise * draws).clamp(0, 1)


def by_skimage(guess: Tensor, truth: Tensor, **more: int) -> Tensor:
    """Scikit-image, image by image; at 11 pixels and over with no window given, as the contract names it."""
    one_by_one = [
        structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            data_range=1,
            use_sample_covariance=False,
            channel_axis=0,
            **more,
        )
        for a, b in zip(guess, truth, strict=True)
    ]
    return torch.tensor(one_by_one, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (11, 40), (25, 25), (28, 28), (32, 32), (33, 12), (64, 48)])
def test_ssim_is_scikit_images(size: tuple[int, int], channels: int) -> None:
    truth = rand(5, channels, *size)
    guess = torch.stack([near(image, noise) for image, noise in zip(truth, (0, 0.05, 0.2, 0.5, 2), strict=True)])
    torch.testing.assert_close(ssim(guess, truth), by_skimage(guess, truth), atol=1e-9, rtol=0)


@settings(max_examples=40)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 3), st.integers(0, 2**20))
def test_ssim_of_small_images_is_scikit_images_with_the_window_stated(h: int, w: int, c: int, seed: int) -> None:
    guess, truth = rand(2, c, h, w, seed=seed), rand(2, c, h, w, seed=seed + 1)
    window = ssim_window(h, w)
    assert window % 2 == 1
    assert window <= min(h, w, 11)
    assert window == 11 or window + 2 > min(h, w)
    torch.testing.assert_close(ssim(guess, truth), by_skimage(guess, truth, win_size=window), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["cifar10.npz", "mnist10k.npz"])
def test_ssim_is_scikit_images_on_real_images(name: str, test_data: Callable[[str], Path]) -> None:
    images = np.load(test_data(name))["test_images"][:40]
    truth = torch.from_numpy(images.reshape(*images.shape[:3], -1)).permute(0, 3, 1, 2).float() / 255
    for guess in (near(truth, 0.1), truth.roll(1, dims=0), truth.mean(0, keepdim=True).expand_as(truth)):
        torch.testing.assert_close(ssim(guess, truth), by_skimage(guess, truth), atol=1e-9, rtol=0)


def test_ssim_of_float32_scikit_image_within_the_contract() -> None:
    truth = rand(3, 3, 32, 32)
    guess = near(truth, 0.1)
    for i in range(3):
        theirs = structural_similarity(
            guess[i].numpy(),
            truth[i].numpy(),
            gaussian_weights=True,
            sigma=1.5,
            data_range=1,
            use_sample_covariance=False,
            channel_axis=0,
        )
        assert abs(float(ssim(guess[i : i + 1], truth[i : i + 1])) - theirs) < 1e-5


def test_ssim_is_exactly_one_for_identical_images_and_symmetric() -> None:
    a, b = rand(4, 3, 16, 16), rand(4, 3, 16, 16, seed=7)
    assert torch.equal(ssim(a, a), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(ssim(a, b), ssim(b, a), atol=1e-14, rtol=0)


def test_ssim_of_two_constant_images_is_the_luminance_term() -> None:
    a, b = torch.full((1, 1, 20, 20), 0.2), torch.full((1, 1, 20, 20), 0.7)
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-7)


def test_ssim_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    guess, truth = rand(7, 1, 12, 12), rand(7, 1, 12, 12, seed=3)
    whole = ssim(guess, truth)
    monkeypatch.setattr("splitguard.metrics.image._ELEMENTS_AT_ONCE", 2 * 144)
    torch.testing.assert_close(ssim(guess, truth), whole, atol=1e-14, rtol=0)


def test_ssim_has_the_gradient_of_finite_differences() -> None:
    guess = rand(1, 1, 8, 9).double().mul(0.8).add(0.1).requires_grad_()
    truth = rand(1, 1, 8, 9, seed=5).double()
    assert torch.autograd.gradcheck(lambda g: ssim(g, truth), guess)


def test_mse_and_psnr_are_scikit_images() -> None:
    truth = rand(6, 3, 9, 10)
    guess = near(truth, 0.1)
    pairs = [(a.double().numpy(), b.double().numpy()) for a, b in zip(truth, guess, strict=True)]
    np.testing.assert_allclose(mse(guess, truth).numpy(), [mean_squared_error(a, b) for a, b in pairs], rtol=1e-12)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    np.testing.assert_allclose(psnr(guess, truth).numpy(), expected, rtol=1e-12)


def test_psnr_of_identical_images_is_the_ceiling_and_of_opposite_ones_zero() -> None:
    black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert float(psnr(black, black)) == 100
    assert float(psnr(black, white)) == 0
    assert float(mse(black, white)) == 1


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
@pytest.mark.parametrize(
    ("guess", "message"),
    [
        (torch.zeros(2, 1, 8, 7), r"one shape; got \(2, 1, 8, 7\) and \(2, 1, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), "one guess for each true image"),
        (torch.zeros(1, 8, 8), r"\(N, C, H, W\)"),
        (torch.zeros(0, 1, 8, 8), "not empty"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "divide 8-bit images by 255"),
        (torch.full((2, 1, 8, 8), -1.0), "values from -1 to -1: undo the normalisation"),
        (torch.full((2, 1, 8, 8), 1.001), r"guess must lie in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), torch.nan), "got NaN"),
        (torch.full((2, 1, 8, 8), torch.inf), "values from inf to inf"),
    ],
)
def test_what_is_no_image_is_refused(metric: Callable[[Tensor, Tensor], Tensor], guess: Tensor, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        metric(guess, torch.zeros(2, 1, 8, 8))


def test_one_bad_pixel_is_enough_and_a_few_ulp_are_not() -> None:
    truth = rand(3, 1, 8, 8)
    spoilt = truth.clone()
    spoilt[1, 0, 3, 4] = torch.nan
    with pytest.raises(BadSetting, match="NaN"):
        mse(spoilt, truth)
    assert torch.equal(mse(torch.ones(1, 1, 8, 8) + 1e-6, torch.ones(1, 1, 8, 8)) < 1e-10, torch.tensor([True]))


def test_a_window_needs_a_pixel() -> None:
    assert [ssim_window(n, 100) for n in (1, 2, 3, 4, 10, 11, 12)] == [1, 1, 3, 3, 9, 11, 11]
    with pytest.raises(BadSetting, match="at least one pixel; got 0x5"):
        ssim_window(0, 5)
