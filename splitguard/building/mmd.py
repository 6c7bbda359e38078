# SPDX-License-Identifier: Apache-2.0
"""How far two samples are apart in distribution, by the maximum mean discrepancy of several Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["ALPHAS", "mk_mmd"]

#: Bandwidths of the kernels, in units of the mean squared distance: those of DAN and of FORA.
ALPHAS = tuple(2.0**k for k in range(-3, 2))


def mk_mmd(one: Tensor, other: Tensor, *, alphas: Sequence[float] = ALPHAS, unbiased: bool = True) -> Tensor:
    """The squared maximum mean discrepancy, summed over Gaussian kernels.

        MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b),    k(u, v) = sum_j exp(-||u - v||^2 / (2 alpha_j s))

    with s the mean squared distance over all pairs of the pooled sample, a row with itself counted too; s is taken
    as a constant, so no gradient flows through it.

    Args:
        one: (N, *shape), N of at least 2.
        other: (M, *shape), M of at least 2.
        alphas: one kernel each, positive.
        unbiased: leaves a row's kernel with itself (1) out of the first two means, the U-statistic: its expectation is
            0 for samples of one distribution, so single values may be negative. Else the V-statistic, which is 0 or
            more, and 0 for equal samples.

    Returns:
        A scalar, differentiable in both samples; of at most 2 a kernel.

    Raises:
        BadSetting: for samples of fewer than 2 rows or of different shapes, or bandwidths that are not positive.

    Source: Gretton et al., A kernel two-sample test, JMLR 2012; the kernels and s of Long et al., Learning transferable
    features with deep adaptation networks, ICML 2015, as FORA's code (Xu et al., CVPR 2024) uses them. For N = M that
    code returns the unbiased value plus 2 / (N - 1), a constant without a gradient; other counts it refuses.
    """
    if min(len(one), len(other)) < 2 or one.shape[1:] != other.shape[1:]:
        raise BadSetting(
            "the maximum mean discrepancy compares two samples of at least 2 rows each and of one shape; got "
            f"{tuple(one.shape)} and {tuple(other.shape)}"
        )
    if not alphas or min(alphas) <= 0:
        raise BadSetting(f"bandwidths of kernels must be positive, one or more; got {tuple(alphas)}")
    pooled = torch.cat([one.flatten(1), other.flatten(1)])
    # The shift changes no distance and keeps the products small, so that their difference loses nothing.
    pooled = pooled - pooled.detach().mean(0)
    norms = pooled.square().sum(1)
    apart = ~torch.eye(len(pooled), dtype=torch.bool, device=pooled.device)
    squared = (norms[:, None] + norms - 2 * pooled @ pooled.T).clamp(min=0) * apart
    scale = squared.detach().mean().clamp(min=torch.finfo(squared.dtype).tiny)
    kernel = torch.stack([torch.exp(-squared / (2 * alpha * scale)) for alpha in alphas]).sum(0)
    n, m = len(one), len(other)
    within, beyond, across = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if unbiased:
        own = len(alphas)
        mean_within = (within.sum() - n * own) / (n * (n - 1))
        mean_beyond = (beyond.sum() - m * own) / (m * (m - 1))
    else:
        mean_within, mean_beyond = within.mean(), beyond.mean()
    out: Tensor = mean_within + mean_beyond - 2 * across.mean()
    return out
