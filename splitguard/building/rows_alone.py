# SPDX-License-Identifier: Apache-2.0
"""What defenses share that make each row private by itself: the clip, and how far their epsilon reaches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from splitguard.engine.defense import Deployment
from splitguard.engine.threat import Labels, Mode
from splitguard.errors import BadSetting

__all__ = ["adversary", "aux_smashed", "clip_rows", "label_clause", "median_norm", "row_norms", "view_holes"]

CHUNK = 256
_LABELS = {
    Labels.SENT: "labels are held fixed and not protected: they are sent as they are",
    Labels.SERVER: "labels are held fixed and not protected: the server owns them",
    Labels.CLIENT: "labels are held fixed and not protected: the returned gradient carries them",
}


def row_norms(rows: Tensor, *, order: int = 2) -> Tensor:
    """(N,): the norm of each row of (N, ...) over all its coordinates, L2 or of another order, in float32 or wider."""
    norms: Tensor = torch.linalg.vector_norm(_wide(rows).flatten(1), ord=order, dim=1)
    return norms


def clip_rows(rows: Tensor, clip: float, *, order: int = 2) -> Tensor:
    """``z min(1, C / ||z||)`` for each row z of (N, ...), the norm over all its coordinates; differentiable.

    Args:
        rows: floating point, of any shape after N; a row depends on no other row.
        clip: C, positive; infinite hands ``rows`` back.
        order: of the norm, 2 or 1. Rows are shortened, not projected: their direction stays in either norm.

    Returns:
        In float32 or wider. Rows within the clip keep every bit; the others have norm C up to the rounding of each
        coordinate, 1e-7 of C, as the norm is summed in float64. Adding noise before rounding to a shorter type keeps
        that rounding out of the sensitivity.
    """
    if math.isinf(clip):
        return rows
    # C / C is exactly 1, so short rows are untouched, and a norm of 0 is never divided by.
    wide, factor = _wide(rows), clip / row_norms(rows.double(), order=order).clamp(min=clip)
    return wide * factor.to(wide).view(-1, *[1] * (rows.dim() - 1))


def aux_smashed(deployment: Deployment) -> Iterator[Tensor]:
    """Chunks (M, *cut1) of what the head before training makes of the auxiliary rows; nothing of it is private."""
    device = next((p.device for p in deployment.head.parameters()), torch.device("cpu"))
    inputs = deployment.aux.inputs
    for start in range(0, len(inputs), CHUNK):
        with torch.no_grad():
            yield deployment.head(inputs[start : start + CHUNK].to(device)).cpu()


def median_norm(deployment: Deployment, *, order: int = 2) -> float:
    """The median of `row_norms` of auxiliary rows behind the head before training; nothing of it is private.

    Raises:
        BadSetting: if there are no auxiliary rows, or the median is not positive and finite.
    """
    norms = [row_norms(chunk, order=order).double() for chunk in aux_smashed(deployment)]
    median = float(torch.cat(norms).quantile(0.5)) if norms else math.nan
    if not 0 < median < math.inf:
        raise BadSetting(
            f"clip: auto is the median norm of the smashed data of {len(deployment.aux)} auxiliary rows, which must be "
            f"positive and finite; it is {median}. Give a number instead"
        )
    return median


def view_holes(deployment: Deployment) -> list[str]:
    """Why the epsilon of a training row's own messages does not cover the server's whole view; empty where it does.

    It does if the head is public and frozen and no layer up to the cut mixes rows. Then a row enters the view through
    its own messages and its label alone: the body, the features, and in u-shaped the tail and the returned gradients
    are computed from messages, labels and public numbers. Adjacency replaces the input and keeps the label, so all of
    that is post-processing of the row's messages, whoever owns the labels. The labels themselves are not protected; see
    `label_clause`. With a trained head the server also sees releases of other rows through weights that were trained on
    this row's raw input, which no clip bounds; where rows are mixed it sees them through this row itself.
    """
    holes = []
    if not deployment.head_frozen:
        holes.append("the head is trained on raw inputs, and later releases, of other rows too, go through it")
    if deployment.mixing:
        several = "mix" if len(deployment.mixing) > 1 else "mixes"
        holes.append(f"{', '.join(deployment.mixing)} {several} the rows of a batch before the clip")
    return holes


def label_clause(labels: Labels) -> str:
    """The clause that says what becomes of the labels, which adjacency holds fixed."""
    return _LABELS[labels]


def adversary(mode: Mode) -> str:
    """Who sees the messages: the server; in splitfed the fed server is taken to collude with it."""
    return "the server, in league with the fed server," if mode is Mode.SPLITFED else "the server"


def _wide(rows: Tensor) -> Tensor:
    return rows if rows.dtype is torch.float64 else rows.float()
