# SPDX-License-Identifier: Apache-2.0
"""Clip and Gaussian noise on the smashed data of each row, with an exact account of what that guarantees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, Guarantee, NotSupported, Phase
from splitguard.building.rows_alone import adversary, clip_rows, label_clause, median_norm, row_norms, view_holes
from splitguard.errors import Diverged, near_miss

__all__ = ["Gaussian", "Protected"]

Protected = Literal["training", "query"]
PHASES: tuple[Protected, ...] = get_args(Protected)


@DEFENSES.add("gaussian")
@dataclass(kw_only=True)
class Gaussian(Defense):
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
    identity, to the bit. The noise is ordinary floating point noise: an adversary who exploits its rounding (Mironov,
    CCS 2012) is not covered.

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
    _scale: tuple[float, float] | None = field(default=None, init=False, repr=False, compare=False)
    _planned: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ledger: privacy.Ledger | None = field(default=None, init=False, repr=False, compare=False)
    _guarantee: Guarantee | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Titcombe et al., Practical defences against model inversion attacks, 2021"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"sigma": 0.0, "clip": "none"}

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.sigma is not None:
            raise BadSetting(
                f"gaussian: epsilon={self.epsilon} and sigma={self.sigma} were both given; one follows from the other. "
                "Give one"
            )
        if self.sigma is None:
            self.epsilon = 8.0 if self.epsilon is None else self.epsilon
            _in_range("epsilon", self.epsilon)
            if self.clip == "none":
                raise BadSetting("gaussian: clip: none leaves no sensitivity, so no epsilon; give a clip, or sigma")
        elif self.sigma != 0:
            _in_range("sigma", self.sigma)
        _in_range("delta", self.delta, below=1)
        if isinstance(self.clip, str):
            _one_of("clip", self.clip, ("auto", "none"))
        else:
            _in_range("clip", self.clip)
        _one_of("adjacency", self.adjacency, get_args(privacy.Adjacency))
        given = [self.phases] if isinstance(self.phases, str) else list(self.phases)
        for phase in given:
            _one_of("phase", phase, PHASES)
        if not given:
            raise BadSetting("gaussian: phases is empty, so nothing is protected; give training, query or both")
        self.phases = tuple(p for p in PHASES if p in given)

    def bind(self, deployment: Deployment) -> None:
        """Fixes clip and noise for this deployment, and what they guarantee there."""
        releases = deployment.releases
        self._planned = {"training": releases.get(Phase.TRAINING, 0), "query": releases.get(Phase.QUERY, 0)}
        if isinstance(self.clip, str):
            clip = math.inf if self.clip == "none" else median_norm(deployment)
        else:
            clip = float(self.clip)
        sigma = self.sigma
        if sigma is None:
            assert self.epsilon is not None
            sigma = privacy.sigma(
                epsilon=self.epsilon, clip=clip, releases=self._counted, delta=self.delta, adjacency=self.adjacency
            )
        self._scale = (clip, sigma)
        accounted = sigma > 0 and clip < math.inf
        self._ledger = privacy.Ledger(self._planned) if accounted else None
        self._guarantee = self._statement(deployment) if accounted else None

    @property
    def _counted(self) -> int:
        """T that the noise is set for: of a training row, or of a query row where training is not protected."""
        return max(self._planned["training" if "training" in self.phases else "query"], 1)

    @property
    def _bound(self) -> tuple[float, float]:
        if self._scale is None:
            raise NotSupported("gaussian: clip and noise are set for a deployment; call bind before anything is sent")
        return self._scale

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """``clip_C(smashed) + N(0, sigma^2 I)``, (N, *cut1), counted in the ledger; ``smashed`` where unprotected."""
        if ("training" if ctx.phase is Phase.TRAINING else "query") not in self.phases:
            return smashed
        if smashed.dim() < 2 or not smashed.is_floating_point() or len(smashed) != len(ctx.ids):
            raise BadSetting(
                f"gaussian: smashed data must be floating point, of shape (N, ...) with an id for each of N rows; got "
                f"{smashed.dtype} of shape {tuple(smashed.shape)} and {len(ctx.ids)} ids"
            )
        if not bool(torch.isfinite(row_norms(smashed.detach())).all()):
            raise Diverged("gaussian: smashed data is not finite, so no clip bounds it; nothing was sent")
        if self._ledger is not None:
            self._ledger.charge(ctx.ids, ctx.phase)
        return self.released_like(smashed, generator)

    def mean_release(self, smashed: Tensor) -> Tensor:
        """``clip_C(smashed)``."""
        return clip_rows(smashed, self._bound[0]).to(smashed.dtype)

    def noise_std(self) -> float:
        """Sigma, in units of the smashed data."""
        return self._bound[1]

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``clip_C(smashed)`` and fresh noise from ``generator``, drawn on its device; no ledger counts this."""
        clip, sigma = self._bound
        clipped = clip_rows(smashed, clip)
        if sigma > 0:
            noise = torch.randn(clipped.shape, generator=generator, device=generator.device, dtype=clipped.dtype)
            clipped = clipped + sigma * noise.to(clipped.device)
        return clipped.to(smashed.dtype)

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the inputs; none without a clip or without noise."""
        return () if self._guarantee is None else (self._guarantee,)

    def _statement(self, deployment: Deployment) -> Guarantee:
        clip, sigma = self._bound

        def epsilon(releases: int) -> float:
            return privacy.epsilon(
                sigma=sigma, clip=clip, releases=releases, delta=self.delta, adjacency=self.adjacency
            )

        training, query = ("training" in self.phases), ("query" in self.phases)
        rows = epsilon(self._counted) if training else None
        holes = view_holes(deployment) if training else ["training rows are sent without clip or noise"]
        unprotected = [] if query else ["what is sent in evaluation and in queries has neither clip nor noise"]
        return Guarantee(
            channel="inputs",
            epsilon_rows=rows,
            epsilon=None if holes else rows,
            epsilon_query=epsilon(1) if query else None,
            delta=self.delta,
            adjacency=self.adjacency,
            sensitivity=privacy.sensitivity(clip, self.adjacency),
            T=self._counted,
            adversary=adversary(deployment.mode),
            mechanism=f"a clip to norm {clip:.4g} and Gaussian noise of standard deviation {sigma:.4g}",
            exclusions=(*holes, *unprotected, label_clause(deployment.labels)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Clip, noise, plan, counts and guarantee, so that a fresh instance goes on without `bind`; empty before it."""
        if self._scale is None:
            return {}
        return {
            "scale": list(self._scale),
            "planned": dict(self._planned),
            "ledger": None if self._ledger is None else self._ledger.state_dict(),
            "guarantee": None if self._guarantee is None else self._guarantee.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; what `bind` set is replaced."""
        if not state:
            return
        clip, sigma = state["scale"]
        self._scale, self._planned = (clip, sigma), dict(state["planned"])
        self._ledger = None if state["ledger"] is None else privacy.Ledger(self._planned)
        if self._ledger is not None:
            self._ledger.load_state_dict(state["ledger"])
        self._guarantee = None if state["guarantee"] is None else Guarantee.from_dict(state["guarantee"])


def _in_range(name: str, value: float, *, below: float = math.inf) -> None:
    if not 0 < value < below:
        raise BadSetting(f"gaussian: {name} must lie above 0 and below {below}; got {value!r}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BadSetting("gaussian: " + near_miss(str(value), known, what=name))
