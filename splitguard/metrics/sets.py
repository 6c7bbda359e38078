# SPDX-License-Identifier: Apache-2.0
"""How far two sets of images lie apart as sets, in AlexNet's eyes; a set metric, which needs thousands of images."""

from __future__ import annotations

import torch
from torch import Tensor

from splitguard.errors import BadSetting, DataUnavailable, NotSupported
from splitguard.metrics.perceptual import alexnet_features

__all__ = ["LEAST", "frechet", "frechet_alexnet"]

#: Images on either side below which the distance says more about their number than about them.
LEAST = 2048


def frechet(left: Tensor, right: Tensor) -> float:
    """The Frechet distance between the normal laws with the means and covariances of two samples.

        ||m_1 - m_2||^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2)

    Args:
        left: (N, D), N of 2 or more.
        right: (M, D), M of 2 or more.

    Returns:
        Not negative; 0 for equal samples.

    Raises:
        BadSetting: for other shapes.

    Source: Dowson, Landau, The Frechet distance between multivariate normal distributions, 1982.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or min(len(left), len(right)) < 2:
        raise BadSetting(
            f"wanted two samples (N, D) of 2 points or more; got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    means = [side.double().mean(0) for side in (left, right)]
    first, second = (torch.cov(side.double().T).reshape(left.shape[1], -1) for side in (left, right))
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    spread = first.trace() + second.trace() - 2 * cross
    return max(float((means[0] - means[1]).square().sum() + spread), 0.0)


def frechet_alexnet(guess: Tensor, truth: Tensor) -> float | None:
    """`frechet` of AlexNet features of two sets of images (N, C, H, W) in [0, 1].

    It is built like the FID and is not the FID: that one takes features of an Inception network. The features are
    those of LPIPS, of the last convolution, averaged over the image: 256 numbers.

    Returns:
        None for fewer than `LEAST` images on either side, and where AlexNet's weights or its channels are missing.
    """
    if min(len(guess), len(truth)) < LEAST:
        return None
    try:
        return frechet(alexnet_features(guess), alexnet_features(truth))
    except (DataUnavailable, NotSupported):
        return None
