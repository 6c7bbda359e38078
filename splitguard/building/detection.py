# SPDX-License-Identifier: Apache-2.0
"""What detectors of training hijacking share: what a client can measure on an exchange, and when that is an alarm."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from splitguard.engine.defense import Deployment
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Exchange
from splitguard.errors import BadSetting, NotSupported

__all__ = [
    "affine_gradient",
    "check_settings",
    "gradient_shape",
    "need_hijackable",
    "overlap",
    "pair_similarity",
    "suspicion",
]


def need_hijackable(deployment: Deployment, name: str) -> None:
    """Refuses a deployment whose client has no labels to send, or no head that could be hijacked.

    Raises:
        NotSupported: unless the labels are sent and the head is trained.
    """
    if deployment.labels is not Labels.SENT or deployment.mode is Mode.U_SHAPED:
        raise NotSupported(
            f"{name} tests a server against labels that the client sends it, and here labels: {deployment.labels}. Use "
            "it with labels: sent, in mode vanilla or splitfed with one cut"
        )
    if deployment.head_frozen:
        raise NotSupported(
            f"{name}: the head is frozen, so no gradient is returned and nothing can be hijacked. Leave it out"
        )


def affine_gradient(exchange: Exchange) -> Tensor | None:
    """The gradient in A and b of a layer ``z -> A z + b`` at the cut, at the identity; None where none was returned.

    ``dL/dA = sum g z^T`` and ``dL/db = sum g``, over rows, and over places of a map or tokens; z and g are the vectors
    of smashed data and cut gradient there, over channels. It is what one more layer of the client's own would get, and
    takes nothing but the messages. Unlike the cut gradient itself it has the same meaning in every batch.

    Returns:
        (C * C + C,) float64, or for C above 64 channels the diagonal of A only, (2 C,); of the batch's mean loss.
    """
    if exchange.cut_grad is None:
        return None
    z, g = (_vectors(value.detach()) for value in (exchange.smashed, exchange.cut_grad))
    weight = (g * z).sum(0) if z.shape[1] > 64 else (g.T @ z).flatten()
    return torch.cat([weight, g.sum(0)]).cpu()


def _vectors(value: Tensor) -> Tensor:
    """(M, C) float64: channels of a map (N, C, H, W), else the last dimension."""
    if value.dim() == 4:
        value = value.movedim(1, -1)
    return value.reshape(-1, value.shape[-1]).double()


def pair_similarity(grad: Tensor, labels: Tensor) -> tuple[float, float] | None:
    """The mean of ``(1 + cos(g_i, g_j)) / 2`` over pairs of rows with one label, and over pairs with two.

    Args:
        grad: (N, *cut), of any scale; rows that are 0 have no direction and are left out.
        labels: (N,), as sent.

    Returns:
        Both in [0, 1]; None for a batch that lacks pairs of either kind.
    """
    flat = grad.detach().flatten(1).double()
    kept = flat.norm(dim=1) > 0
    flat, labels = normalize(flat[kept], eps=0), labels.to(flat.device)[kept]
    upper = torch.ones(len(flat), len(flat), device=flat.device).triu(1).bool()
    same = (labels[:, None] == labels[None]) & upper
    other = upper & ~same
    if not (bool(same.any()) and bool(other.any())):
        return None
    likeness = (1 + flat @ flat.T) / 2
    return float(likeness[same].mean()), float(likeness[other].mean())


def gradient_shape(grad: Tensor, labels: Tensor) -> Tensor | None:
    """Four numbers about a batch's cut gradient that do not depend on its scale, nor on a rotation at the cut.

    `pair_similarity` of equal and of different labels; ``||mean g|| / mean ||g||``, 1 where all rows pull one way; and
    ``mean ||g|| / sqrt(mean ||g||^2)``, 1 where they pull equally hard. They compare between networks with unrelated
    weights.

    Args:
        grad: (N, *cut).
        labels: (N,), as sent.

    Returns:
        (4,) float64 in [0, 1]; None where `pair_similarity` is None.
    """
    pair = pair_similarity(grad, labels)
    if pair is None:
        return None
    flat = grad.detach().flatten(1).double()
    lengths = flat.norm(dim=1)
    mean = float(lengths.mean())
    together = float(flat.mean(0).norm()) / mean
    return torch.tensor([*pair, together, mean / float(lengths.square().mean().sqrt())], dtype=torch.float64)


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Intersection over union of two intervals (low, high), in [0, 1].

    The intersection ends at the smaller of the high ends and begins at the *larger* of the low ends; two points are 1
    where they are equal, else 0.
    """
    shared = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - shared
    return shared / union if union > 0 else float(first == second)


def suspicion(value: float, limit: float) -> float:
    """A value in [0, 1] as an alarm's score: 0 stays 0, 1 stays 1, and ``limit`` becomes 1/2, linearly between."""
    value = min(max(value, 0.0), 1.0)
    return value / (2 * limit) if value <= limit else 0.5 + (value - limit) / (2 * (1 - limit))


def check_settings(owner: str, *, whole: dict[str, tuple[int, int]], shares: dict[str, float]) -> None:
    """Whole numbers with their least values, ``name: (value, least)``, and shares that lie strictly within 0..1.

    Raises:
        BadSetting: for the first that does not.
    """
    for name, (value, least) in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadSetting(f"{owner}: {name} must be a whole number of at least {least}; got {value!r}")
    for name, share in shares.items():
        if not (math.isfinite(share) and 0 < share < 1):
            raise BadSetting(f"{owner}: {name} must lie above 0 and below 1; got {share!r}")
