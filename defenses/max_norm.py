# SPDX-License-Identifier: Apache-2.0
"""Max-norm alignment: every returned gradient gets, in expectation, the length of the longest one of its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from splitguard.api import DEFENSES, Context, Defense, Deployment, Spec
from splitguard.building.label_side import finite_norms, need_returned_gradient
from splitguard.building.rows_alone import row_norms

__all__ = ["MaxNorm"]


@DEFENSES.add("max-norm")
@dataclass(kw_only=True)
class MaxNorm(Defense):
    """Returns ``g_j + xi_j sqrt(M^2 - ||g_j||^2) g_j / ||g_j||`` in place of each row's gradient g_j.

    ``M = max_k ||g_k||`` over the batch and ``xi_j ~ N(0, 1)``, one number a row: the mean stays g_j, and the expected
    squared length becomes M^2 for every row, so that second moments of the length no longer tell the classes apart.
    Written ``g_j (1 + xi_j sqrt(M^2 / ||g_j||^2 - 1))`` in the paper, which is the same. A gradient of length 0 has no
    direction; it gets one drawn uniformly. It has no settings; where all rows are equally long, nothing changes.

    A heuristic without any guarantee: each gradient stays on its own line, so direction leaks up to the sign, which
    an attacker who knows this allows for (`restored`), and the rows that are long by themselves stay as they are.
    Where labels are sent there is nothing to hide, and it refuses.

    Raises:
        NotSupported: from `bind`, where the labels are sent.
        Diverged: from `on_return`, for a batch with a gradient that is not finite.

    Source: Li et al., Label leakage and protection in two-party split learning, ICLR 2022 (section 4.1). Differences
    from code in use: some adds noise in all directions, of a standard deviation that is not scaled by the gradient, or
    takes the largest norm over parties instead of rows; the length 0 is dealt with.
    """

    paper: ClassVar[str] = "Li et al., Label leakage and protection in two-party split learning, ICLR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "gradients"
    breakers: ClassVar[tuple[Spec, ...]] = (
        "gradient-cosine",
        "gradient-spectral",
        "similarity",
        "similarity-smashed",
        "model-completion",
        "gradient-norm",
    )

    def bind(self, deployment: Deployment) -> None:
        """Refuses a deployment that returns no gradient of labels."""
        need_returned_gradient(deployment, self.name)

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut), per sample, each along its own direction."""
        if len(grad) == 0:
            return grad
        norms = finite_norms(grad, self.name)
        flat = grad.flatten(1).to(norms.dtype)
        directions = flat / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None]
        zero = norms == 0
        if bool(zero.any()):
            drawn = torch.randn(flat.shape, generator=generator, device=generator.device, dtype=flat.dtype)
            drawn = drawn.to(flat.device)
            directions = torch.where(zero[:, None], drawn / row_norms(drawn)[:, None], directions)
        xi = torch.randn(len(flat), generator=generator, device=generator.device, dtype=flat.dtype).to(flat.device)
        # (M - n)(M + n), not M^2 - n^2: exactly 0 for the longest row, and no overflow of M / n.
        added = xi * ((norms.max() - norms) * (norms.max() + norms)).sqrt()
        return (flat + added[:, None] * directions).view_as(grad).to(grad.dtype)

    def restored(self, returned: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """(N, D): each gradient with the sign that brings it nearest to the line of a class.

        A class's line is the first singular vector of its ``known`` rows, with the sign of most of them. Two classes
        share one line, and there is nothing but the sign to tell them apart: then all stays as it was returned.
        """
        classes = labels.unique()
        if len(classes) <= 2:
            return returned
        lines = []
        for label in classes:
            rows = normalize(known[labels == label], dim=1)
            line = torch.linalg.svd(rows, full_matrices=False).Vh[0]
            lines.append(line * torch.where((rows @ line).sum() < 0, -1.0, 1.0))
        cosines = normalize(returned, dim=1) @ torch.stack(lines).T
        nearest = cosines.gather(1, cosines.abs().argmax(1, keepdim=True))
        return torch.where(nearest < 0, -returned, returned)
