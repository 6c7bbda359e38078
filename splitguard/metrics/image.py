# SPDX-License-Identifier: Apache-2.0
"""Per-image distances between a guess and the truth: MSE, PSNR and SSIM."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["PSNR_CEILING", "check_images", "check_pair", "mse", "psnr", "ssim", "ssim_window"]

PSNR_CEILING = 100.0
"""dB; what `psnr` gives at most, so that one exact recovery does not make a mean infinite."""

_RANGE_SLACK = 1e-5  # de-normalising float32 images leaves a few ulp outside [0, 1]
_SIGMA, _TRUNCATE, _WINDOW = 1.5, 3.5, 11  # Wang et al. 2004: 11 taps
_K1, _K2 = 0.01, 0.03
_ELEMENTS_AT_ONCE = 1 << 21  # of one float64 intermediate; SSIM holds about ten of them


def check_images(images: Tensor, *, what: str = "images") -> None:
    """Refuses what is not (N, C, H, W), floating point, in [0, 1], finite and of at least one image.

    Raises:
        BadSetting: with what was wanted and what came.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise BadSetting(f"{what} must be (N, C, H, W) and not empty; got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise BadSetting(
            f"{what} must be floating point in [0, 1]; got {images.dtype}: divide 8-bit images by 255 first"
        )
    low, high = (float(v) for v in torch.aminmax(images.detach()))  # NaN anywhere makes both NaN
    if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
        came = "NaN" if math.isnan(low) else f"values from {low:.6g} to {high:.6g}"
        raise BadSetting(f"{what} must lie in [0, 1]; got {came}: undo the normalisation, or clamp, before scoring")


def check_pair(guess: Tensor, truth: Tensor) -> None:
    """Refuses a guess and a truth that cannot be compared image by image.

    Raises:
        BadSetting: if either is no image batch (see `check_images`), or their shapes differ.
    """
    check_images(guess, what="guess")
    check_images(truth, what="truth")
    if guess.shape != truth.shape:
        raise BadSetting(
            f"guess and truth must have one shape; got {tuple(guess.shape)} and {tuple(truth.shape)}: "
            "one guess for each true image, in the same order"
        )


def mse(guess: Tensor, truth: Tensor) -> Tensor:
    """The mean squared error of each image, over its channels and pixels.

    Args:
        guess: (N, C, H, W) in [0, 1].
        truth: the same shape and range, on the same device.

    Returns:
        (N,) float64 in [0, 1]; 0 is identical. Papers that use images in [-1, 1] report four times this.

    Raises:
        BadSetting: for shapes that differ, values outside [0, 1], or NaN.
    """
    check_pair(guess, truth)
    return (_precise(guess) - _precise(truth)).square().flatten(1).mean(1)


def psnr(guess: Tensor, truth: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image, ``-10 log10(mse)`` for the peak 1.

    Args:
        guess: (N, C, H, W) in [0, 1].
        truth: the same shape and range, on the same device.

    Returns:
        (N,) float64 in dB, in [0, `PSNR_CEILING`]; larger is closer. Identical images would be infinite and a mean
        with them too: from an MSE of 1e-10 down the value is 100 dB.

    Raises:
        BadSetting: as `mse`.
    """
    return -10 * torch.log10(mse(guess, truth).clamp(min=10 ** (-PSNR_CEILING / 10)))


def ssim_window(height: int, width: int) -> int:
    """The side of the SSIM window for images of this size: 11, or the largest odd number that fits.

    Raises:
        BadSetting: for sides below one pixel.
    """
    side = min(height, width)
    if side < 1:
        raise BadSetting(f"images need sides of at least one pixel; got {height}x{width}")
    return min(_WINDOW, side if side % 2 else side - 1)


def ssim(guess: Tensor, truth: Tensor) -> Tensor:
    """The structural similarity of each image, mean over pixels and channels.

    ``(2 ux uy + C1)(2 vxy + C2) / ((ux^2 + uy^2 + C1)(vx + vy + C2))``, ``C1 = .01^2``, ``C2 = .03^2``, with means,
    variances and covariance under a Gaussian of sigma 1.5 (11 taps, borders reflected), and the strip of half a window
    along the border left out. Differentiable.

    Args:
        guess: (N, C, H, W) in [0, 1].
        truth: the same shape and range, on the same device.

    Returns:
        (N,) float64 in [-1, 1]; 1 is identical.

    Raises:
        BadSetting: as `mse`.

    Note:
        Equal to scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5, data_range=1,
        use_sample_covariance=False, channel_axis=0, win_size=ssim_window(H, W))``. As there, an image smaller than 11
        pixels keeps the 11 taps, folded back at the border, and leaves out the narrower strip.

    Source: Wang, Bovik, Sheikh, Simoncelli, Image quality assessment, IEEE TIP 2004.
    """
    check_pair(guess, truth)
    height, width = guess.shape[-2:]
    pad = ssim_window(height, width) // 2
    x, y = _precise(guess), _precise(truth)
    rows, columns = _filter(height, pad).to(x), _filter(width, pad).to(x)
    at_once = max(1, _ELEMENTS_AT_ONCE // x[0].numel())
    parts = [_ssim(a, b, rows, columns) for a, b in zip(torch.split(x, at_once), torch.split(y, at_once), strict=True)]
    return torch.cat(parts)


def _ssim(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """SSIM of (N, C, H, W) pairs under the separable filter ``rows`` (H', H) and ``columns`` (W', W)."""
    ux, uy, uxx, uyy, uxy = (rows @ a @ columns.T for a in (x, y, x * x, y * y, x * y))
    c1, c2 = _K1**2, _K2**2
    means = (2 * ux * uy + c1) / (ux * ux + uy * uy + c1)
    spreads = (2 * (uxy - ux * uy) + c2) / ((uxx - ux * ux) + (uyy - uy * uy) + c2)
    return (means * spreads).flatten(1).mean(1)


@lru_cache(maxsize=64)
def _filter(size: int, pad: int) -> Tensor:
    """(size - 2 pad, size) float64: the Gaussian filter along one axis, as a matrix, less ``pad`` outputs at each end.

    Images here are small, so two matrix products beat a convolution with padding; and taking the matrix from SciPy's
    own filter, which scikit-image calls, settles the treatment of borders however narrow the image is.
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    matrix = gaussian_filter1d(np.eye(size), _SIGMA, axis=0, mode="reflect", truncate=_TRUNCATE)
    return torch.from_numpy(matrix[pad : size - pad].copy())


def _precise(images: Tensor) -> Tensor:
    """In float64, because SSIM subtracts nearly equal numbers; float32 on Apple's GPUs, which have no float64."""
    return images.float() if images.device.type == "mps" else images.double()
