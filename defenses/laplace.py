# SPDX-License-Identifier: Apache-2.0
"""L1 clip and Laplace noise on the smashed data of each row, with a pure epsilon: no delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import DEFENSES
from splitguard.building.noisy_release import PHASES, NoisyRelease, Protected

__all__ = ["Laplace"]


@DEFENSES.add("laplace")
@dataclass(kw_only=True)
class Laplace(NoisyRelease):
    """Sends ``clip_C(z) + Laplace(b)`` in place of ``z``, row by row, with fresh noise at every sending.

    ``clip_C(z) = z min(1, C / ||z||_1)`` with the L1 norm over all coordinates of one row; each coordinate's noise has
    the density ``exp(-|x| / b) / (2 b)``, standard deviation ``sqrt(2) b``. From ``epsilon`` the noise follows exactly,

        epsilon = T Delta / b,    Delta = 2C in L1,    delta = 0

    for the T releases of a training row, or those of a query row where training is not protected. A ledger counts every
    release and refuses one beyond the planned number.

    What ``epsilon_rows``, ``epsilon`` and ``epsilon_query`` cover, and when ``epsilon`` is not stated, is as for
    `gaussian`: a row's own messages; the server's whole view, for a public and frozen head without layers that mix
    rows; one query. Nothing is guaranteed without a clip or without noise. With ``clip: none`` and ``scale: 0`` the
    defense is an identity, to the bit. The noise is ordinary floating point noise: an adversary who exploits its
    rounding (Mironov, CCS 2012) is not covered.

    The price of no delta: the L1 norm of d coordinates is up to ``sqrt(d)`` times their L2 norm, and epsilon grows with
    T where that of Gaussian noise grows with its root. It pays for narrow cuts and few releases. Attacks that match in
    squared distance treat the noise as Gaussian of the same variance, which loses little but is not optimal.

    Args:
        epsilon: what a row gets for all its releases; positive. Give this or ``scale``; without either it is 8.
        scale: b, in units of the smashed data; 0 or more.
        clip: C, positive, in units of the smashed data, in L1; ``auto``: the median L1 norm of the smashed data of
            auxiliary rows, under the head before training; ``none``: no clip, which allows no ``epsilon``.
        phases: where rows are protected: ``training``, ``query`` (evaluation belongs to it), or both; what is sent in
            the other one goes out as it is.
        adjacency: ``replace-one``: an input against any other, Delta = 2C; ``zero-out``: against the zero row,
            Delta = C, the weaker statement.

    Raises:
        BadSetting: for settings outside their range or at odds; from `bind`, if ``auto`` finds no positive norm.
        ReleaseRefused: from `on_send`, for a row that was sent as often as planned.
        Diverged: from `on_send`, for a row that is not finite, which no clip bounds.

    Source: Dwork, McSherry, Nissim, Smith, Calibrating noise to sensitivity in private data analysis, TCC 2006; on
    smashed data, without a clip: He, Zhang, Lee, IEEE Internet of Things Journal 2020, here `noise`. Differences from
    code in use: the clip is in the norm that the noise needs, per row, not by the batch's largest norm, and every
    release counts.
    """

    epsilon: float | None = None
    scale: float | None = None
    clip: float | Literal["auto", "none"] = "auto"
    phases: tuple[Protected, ...] = PHASES
    adjacency: privacy.Adjacency = "replace-one"

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Dwork et al., Calibrating noise to sensitivity in private data analysis, TCC 2006"
    null: ClassVar[Mapping[str, Any] | None] = {"scale": 0.0, "clip": "none"}
    breakers = ("candidate-match", "white-box-inversion", "inverse-network")
    order: ClassVar[int] = 1
    noise_law: ClassVar[str] = "laplace"
    scale_name: ClassVar[str] = "scale"
    spread: ClassVar[float] = 2**0.5

    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """The difference of two exponential draws, which is Laplace(1); no logarithm of 0 can arise."""
        both = torch.empty(2, *like.shape, device=generator.device, dtype=like.dtype)
        both.exponential_(generator=generator)
        return both[0] - both[1]

    def calibrated(self, epsilon: float, clip: float, releases: int) -> float:
        """B, by `splitguard.privacy.scale_laplace`."""
        return privacy.scale_laplace(epsilon=epsilon, clip=clip, releases=releases, adjacency=self.adjacency)

    def spent(self, clip: float, scale: float, releases: int) -> float:
        """Epsilon, by `splitguard.privacy.epsilon_laplace`."""
        return privacy.epsilon_laplace(scale=scale, clip=clip, releases=releases, adjacency=self.adjacency)

    def mechanism(self, clip: float, scale: float) -> str:
        """Clip and noise in words; the guarantee's own ``sensitivity`` is an L2 one, and epsilon rests on L1 here."""
        change = privacy.sensitivity(clip, self.adjacency)
        return f"a clip to L1 norm {clip:.4g}, so L1 sensitivity {change:.4g}, and Laplace noise of scale {scale:.4g}"
