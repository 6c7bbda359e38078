# SPDX-License-Identifier: Apache-2.0
"""The places of each row's smashed data change order, in another way at every sending."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported

__all__ = ["PatchShuffle"]


@DEFENSES.add("patch-shuffle")
@dataclass(kw_only=True)
class PatchShuffle(Defense):
    """Sends the tokens of each row, or the patches of its map, in a random order; the contents stay as they are.

    A row (tokens, d) has a token for each place. A map (C, H, W) is divided into squares of ``patch`` by ``patch``
    places, which move whole, with all their channels. Each row gets a permutation of its own at every sending, uniform
    over all of them, in evaluations and queries as in training.

    The body has to make do without the order: attention without further position embeddings does not mind, nor does
    average pooling over places; a convolution across patches or a linear layer over a flattened map loses most of its
    accuracy. Nothing is guaranteed: what is in a patch is sent as it is, and an attacker with the head puts the places
    in order again, each where it fits best what a guess would make there (`residual`, an assignment of least cost).

    Args:
        patch: side of the squares that a map is divided into; it divides both sides of the map. 1 for tokens.
        fixed: number of leading tokens that keep their place, as a class token must; 0 for maps.

    Raises:
        BadSetting: for settings that do not fit the shape at the cut.
        NotSupported: at a flat cut, which has no places.

    Source: Yao et al., PatchShuffle, ICDM 2022, for transformers; there an order is drawn per sample, too. Their
    variants that also exchange patches between rows or move them in the spectrum are not offered: the first mixes rows.
    The order-aware attacker is that of DRAG (Hungarian re-ordering).
    """

    patch: int = 1
    fixed: int = 0

    paper: ClassVar[str] = "Yao et al., PatchShuffle, ICDM 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    # One head a victim: each of its evaluations solves an assignment for every release.
    breakers = ({"white-box-inversion": {"releases": 1}}, "inverse-network", "candidate-match")

    def __post_init__(self) -> None:
        if self.patch < 1 or self.fixed < 0:
            raise BadSetting(
                f"patch-shuffle: patch must be at least 1 and fixed at least 0; got {self.patch} and {self.fixed}"
            )

    def bind(self, deployment: Deployment) -> None:
        """Refuses a cut that these settings do not fit."""
        self._check(deployment.cut_shapes[0])

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed``, each row in an order of its own."""
        return self.released_like(smashed, generator)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """The same mean over all places at every place that moves."""
        places = self._places(smashed)
        moving = places[:, self.fixed :]
        return self._back(
            torch.cat([places[:, : self.fixed], moving.mean(1, keepdim=True).expand_as(moving)], 1), smashed
        )

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed``, each row in an order of its own from ``generator``."""
        places = self._places(smashed)
        count = places.shape[1] - self.fixed
        # In double precision two equal keys, which would bias the order, do not occur.
        keys = torch.rand(len(places), count, generator=generator, device=generator.device, dtype=torch.float64)
        return self._back(self._reordered(places, keys.argsort(1).to(places.device)), smashed)

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        """``made - sent`` with the places of ``sent`` in the order that makes its sum of squares least."""
        ours, theirs = self._places(made), self._places(sent.expand_as(made))
        with torch.no_grad():
            cost = torch.cdist(
                ours[:, self.fixed :].flatten(2),
                theirs[:, self.fixed :].flatten(2),
                compute_mode="donot_use_mm_for_euclid_dist",
            ).square()
            order = [torch.from_numpy(linear_sum_assignment(row)[1]) for row in cost.double().cpu().numpy()]
        best = torch.stack(order).to(theirs.device) if order else torch.zeros(0, 0, dtype=torch.int64)
        return self._back(ours - self._reordered(theirs, best), made)

    def _reordered(self, places: Tensor, order: Tensor) -> Tensor:
        """Places (N, P, ...) with those after the first ``fixed`` taken in the ``order`` (N, P - fixed)."""
        moved = torch.arange(len(places), device=order.device)[:, None], self.fixed + order
        return torch.cat([places[:, : self.fixed], places[moved]], 1)

    def _places(self, rows: Tensor) -> Tensor:
        """(N, P, d): one vector a token or patch."""
        self._check(tuple(rows.shape[1:]))
        if rows.ndim == 3:
            return rows
        side, (count, channels, height, width) = self.patch, rows.shape
        blocks = rows.view(count, channels, height // side, side, width // side, side)
        return blocks.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * side * side)

    def _back(self, places: Tensor, like: Tensor) -> Tensor:
        """The inverse of `_places`."""
        if like.ndim == 3:
            return places
        side, (count, channels, height, width) = self.patch, like.shape
        blocks = places.view(count, height // side, width // side, channels, side, side)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (2, 3):
            raise NotSupported(
                f"patch-shuffle: what crosses has shape {shape}, with no places to put in another order; cut where "
                "tokens (tokens, d) or a map (C, H, W) cross"
            )
        if len(shape) == 2 and (self.patch != 1 or self.fixed > shape[0] - 2):
            raise BadSetting(
                f"patch-shuffle: for {shape[0]} tokens patch must be 1 and fixed lie in 0..{shape[0] - 2}; got "
                f"patch={self.patch} and fixed={self.fixed}"
            )
        if len(shape) == 3 and (
            self.fixed or shape[1] % self.patch or shape[2] % self.patch or self.patch == max(shape[1:])
        ):
            raise BadSetting(
                f"patch-shuffle: for a map of {shape[1]}x{shape[2]} places fixed must be 0 and patch divide both sides "
                f"into more than one square; got fixed={self.fixed} and patch={self.patch}"
            )
