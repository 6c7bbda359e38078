# SPDX-License-Identifier: Apache-2.0
"""How much one set of vectors says about another: distance correlation and linear CKA."""

from __future__ import annotations

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["dcor", "linear_cka"]


def dcor(x: Tensor, z: Tensor) -> Tensor:
    """The distance correlation of a batch, differentiable, as NoPeek's penalty uses it.

    ``dCor = sqrt(dCov^2(x, z) / sqrt(dCov^2(x, x) dCov^2(z, z)))`` with ``dCov^2(x, z) = mean_jk A_jk B_jk``, where A
    and B are the Euclidean distances within x and within z, not squared, less their row and column means, plus their
    mean. In the population it is 0 only under independence.

    Args:
        x: (N, *in), inputs, say; any trailing shape, floating point, N of at least 2.
        z: (N, *cut), smashed data, say; the same N, dtype and device.

    Returns:
        A scalar in [0, 1] of the inputs' dtype; 1 if z is x turned, moved or scaled. 0 where x or z is constant, with
        gradient zero. This is the V-statistic: of independent samples it is above 0, and near 1 if N is far below the
        dimensions, so compare values at one batch size only. Equal rows put no NaN into the gradient.

    Raises:
        BadSetting: for fewer than two rows, numbers of rows that differ, or whole numbers.

    Source: Szekely, Rizzo, Bakirov, Measuring and testing dependence by correlation of distances, Annals of Statistics
    2007; as a penalty: Vepakomma, Singh, Gupta, Raskar, NoPeek, ICDM workshops 2020. Some code in use takes squared
    distances and no root: that is `linear_cka`, which sees linear dependence only.
    """
    _check(x, z)
    a, b = (_centred(_distances(_wide(rows))) for rows in (x, z))
    return _root(_cosine(a, b)).to(x.dtype)


def linear_cka(x: Tensor, z: Tensor) -> Tensor:
    """The linear centred kernel alignment of a batch, differentiable.

    ``||Z' X||_F^2 / (||X' X||_F ||Z' Z||_F)`` with centred columns.

    Args:
        x: (N, *in); any trailing shape, floating point, N of at least 2.
        z: (N, *cut); the same N, dtype and device.

    Returns:
        A scalar in [0, 1] of the inputs' dtype; 1 if z is x turned, moved or scaled; 0 where x or z is constant, with
        gradient zero.

    Raises:
        BadSetting: for fewer than two rows, numbers of rows that differ, or whole numbers.

    Source: Kornblith, Norouzi, Lee, Hinton, Similarity of neural network representations revisited, ICML 2019.
    """
    _check(x, z)
    a, b = (_less_mean(_wide(rows)) for rows in (x, z))
    return _cosine(a @ a.T, b @ b.T).to(x.dtype)


def _check(x: Tensor, z: Tensor) -> None:
    if x.ndim < 2 or z.ndim < 2 or len(x) != len(z) or len(x) < 2:
        raise BadSetting(
            f"dependence is measured between two sets of N rows, N at least 2, each (N, ...); "
            f"got shapes {tuple(x.shape)} and {tuple(z.shape)}"
        )
    if not (x.is_floating_point() and x.dtype == z.dtype):
        raise BadSetting(f"both sets must have one floating point dtype; got {x.dtype} and {z.dtype}")


def _wide(rows: Tensor) -> Tensor:
    """(N, D) in float64: in float32 the product in `_distances` is off by .0005 of the largest length at near rows.

    Apple's GPUs have no float64 and keep float32.
    """
    rows = rows.flatten(1)
    return rows.float() if rows.device.type == "mps" else rows.double()


def _less_mean(rows: Tensor) -> Tensor:
    """Columns less their means; exactly zero for a constant column, whose mean may be an ulp off."""
    constant = (rows == rows[:1]).all(0)
    return torch.where(constant, torch.zeros_like(rows), rows - rows.mean(0, keepdim=True))


def _distances(rows: Tensor) -> Tensor:
    """(N, N), Euclidean distances of the rows of (N, D), in N^2 D multiplications and N^2 memory.

    What rounding leaves between equal rows is set to zero, with gradient zero: the root is not differentiable there.
    """
    rows = _less_mean(rows)  # distances stay, and far fewer digits cancel below
    gram = rows @ rows.T
    square = gram.diagonal()
    squared = square[:, None] + square[None, :] - 2 * gram
    noise = 8 * torch.finfo(rows.dtype).eps * square.detach().max()
    apart = squared.detach() > noise
    return _root(torch.where(apart, squared, torch.zeros_like(squared)))


def _centred(distances: Tensor) -> Tensor:
    return distances - distances.mean(0, keepdim=True) - distances.mean(1, keepdim=True) + distances.mean()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between two matrices; 0, with gradient zero, where one of them is zero."""
    lengths = _root((a * a).sum()) * _root((b * b).sum())
    some = lengths.detach() > 0
    return torch.where(some, (a * b).sum() / torch.where(some, lengths, torch.ones_like(lengths)), 0 * lengths)


def _root(value: Tensor) -> Tensor:
    """The square root; 0, with gradient zero, where the value is not positive."""
    positive = value.detach() > 0
    return torch.where(positive, torch.where(positive, value, torch.ones_like(value)).sqrt(), torch.zeros_like(value))
