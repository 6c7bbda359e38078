# SPDX-License-Identifier: Apache-2.0
"""Clip and Gaussian noise on the smashed data of each row, with an exact account of what that guarantees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import DEFENSES, standard_normal
from splitguard.building.noisy_release import PHASES, NoisyRelease, Protected, in_range

__all__ = ["Gaussian", "Protected"]


@DEFENSES.add("gaussian")
@dataclass(kw_only=True)
class Gaussian(NoisyRelease):
    """Sends ``clip_C(z) + N(0, sigma^2 I)`` in place of ``z``, row by row, with fresh noise at every sending.

    ``clip_C(z) = z min(1, C / ||z||_2)`` with the norm over all coordinates of one row. From ``epsilon`` the noise
    follows exactly, ``mu = sqrt(T) Delta / sigma``: for the T releases of a training row, or those of a query row where
    training is not protected. A ledger counts every release and refuses one beyond the planned number.

    What is guaranteed, along the channel ``inputs``:

    * ``epsilon_rows``, a training row's own T messages. Each is a clipped vector, whatever made it, so this holds for a
      trained head and for layers that mix rows; it says nothing of what *other* rows' messages give away of the row.
    * ``epsilon``, the server's whole view, only where `splitguard.building.rows_alone.view_holes` finds none: the head
      is public and frozen, and no layer up to the cut mixes rows. Labels are held fixed by the adjacency and are not
      protected; the sentence says how the server comes by them.
    * ``epsilon_query``, one row sent once after training; the head does not depend on such a row.

    Nothing is guaranteed without a clip or without noise. With ``clip: none`` and ``sigma: 0`` the defense is an
    identity, to the bit. The noise is drawn and added in float64, with exact tails (`splitguard.seeding`), and rounded
    with the sum: an adversary who exploits the rounding of float64 (Mironov, CCS 2012) is not covered.

    Args:
        epsilon: of the (epsilon, delta) pair that a row gets for all its releases; positive. Give this or ``sigma``;
            without either it is 8.
        sigma: standard deviation of the noise, in units of the smashed data; 0 or more.
        delta: in (0, 1); below one over the number of rows for a statement worth making.
        clip: C, positive, in units of the smashed data; ``auto``: the median norm of the smashed data of auxiliary
            rows, under the head before training; ``none``: no clip, which allows no ``epsilon``.
        phases: where rows are protected: ``training``, ``query`` (evaluation belongs to it), or both; what is sent in
            the other one goes out as it is.
        adjacency: ``replace-one``: an input against any other, Delta = 2C; ``zero-out``: against the zero row,
            Delta = C, the weaker statement.

    Raises:
        BadSetting: for settings outside their range or at odds; from `bind`, if ``auto`` finds no positive norm.
        ReleaseRefused: from `on_send`, for a row that was sent as often as planned.
        Diverged: from `on_send`, for a row that is not finite, which no clip bounds.

    Source: Titcombe, Hall, Papadopoulos, Romanini, Practical defences against model inversion attacks for split neural
    networks, 2021 (arXiv 2104.05743), for noise without a clip, here ``clip: none``; exact composition: Dong, Roth, Su,
    Gaussian differential privacy, JRSS-B 2022. Differences from code in use: the clip is per row and over all its
    coordinates, replacing a row costs 2C, every release counts, and nothing is gained from subsampling.
    """

    epsilon: float | None = None
    sigma: float | None = None
    delta: float = 1e-5
    clip: float | Literal["auto", "none"] = "auto"
    phases: tuple[Protected, ...] = PHASES
    adjacency: privacy.Adjacency = "replace-one"

    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Titcombe et al., Practical defences against model inversion attacks, 2021"
    null: ClassVar[Mapping[str, Any] | None] = {"sigma": 0.0, "clip": "none"}
    breakers = ("candidate-match", "white-box-inversion", "inverse-network")
    order: ClassVar[int] = 2
    noise_law: ClassVar[str] = "gaussian"
    scale_name: ClassVar[str] = "sigma"
    spread: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self.name, "delta", self.delta, below=1)

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """``N(0, I)``, in float64."""
        return standard_normal(like.shape, generator)

    def calibrated(self, epsilon: float, clip: float, releases: int) -> float:
        """Sigma, by `splitguard.privacy.sigma`."""
        return privacy.sigma(epsilon=epsilon, clip=clip, releases=releases, delta=self.delta, adjacency=self.adjacency)

    def spent(self, clip: float, scale: float, releases: int) -> float:
        """Epsilon, by `splitguard.privacy.epsilon`."""
        return privacy.epsilon(sigma=scale, clip=clip, releases=releases, delta=self.delta, adjacency=self.adjacency)

    def failure(self) -> float:
        """Delta."""
        return self.delta

    def sensitivity(self, clip: float) -> float:
        """Delta in L2: 2C or C."""
        return privacy.sensitivity(clip, self.adjacency)

    def mechanism(self, clip: float, scale: float) -> str:
        """Clip and noise in words."""
        return f"a clip to norm {clip:.4g} and Gaussian noise of standard deviation {scale:.4g}"
