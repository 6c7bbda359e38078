# SPDX-License-Identifier: Apache-2.0
"""The clipped noisy release that `gaussian` and `laplace` share: settings, ledger, and what is guaranteed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.building.rows_alone import adversary, clip_rows, label_clause, median_norm, row_norms, view_holes
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.wire import Phase
from splitguard.errors import BadSetting, Diverged, NotSupported, one_of
from splitguard.privacy.guarantee import Guarantee

__all__ = ["PHASES", "NoisyRelease", "Protected", "checked_phases", "in_range", "is_protected"]

Protected = Literal["training", "query"]
PHASES: tuple[Protected, ...] = get_args(Protected)


class NoisyRelease(Defense, ABC):
    """Sends ``clip_C(z) + scale * noise`` in place of ``z``, row by row, with fresh noise at every sending.

    A subclass is a dataclass with the settings ``epsilon``, ``clip``, ``phases``, ``adjacency`` and one for the scale
    of the noise, called `scale_name`; it brings the law of the noise and its accounting. `bind` fixes clip and scale,
    and what they guarantee, for the T releases of a training row, or those of a query row where training is not
    protected. A ledger counts every release and refuses one beyond the planned number.

    Raises:
        BadSetting: for settings outside their range or at odds; from `bind`, if ``auto`` finds no positive norm.
        ReleaseRefused: from `on_send`, for a row that was sent as often as planned.
        Diverged: from `on_send`, for a row that is not finite, which no clip bounds.
    """

    epsilon: float | None
    clip: float | Literal["auto", "none"]
    phases: tuple[Protected, ...]
    adjacency: privacy.Adjacency

    #: The norm of the clip, 2 or 1; the setting that holds the noise's scale; noise's standard deviation at scale 1.
    order: ClassVar[int]
    scale_name: ClassVar[str]
    spread: ClassVar[float]

    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "smashed data"

    _scale: tuple[float, float] | None = None
    _planned: Mapping[str, int] = MappingProxyType({})
    _ledger: privacy.Ledger | None = None
    _guarantee: Guarantee | None = None

    @abstractmethod
    def unit_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of scale 1 in the shape of ``like`` and in its type or a wider one, on any device."""

    @abstractmethod
    def calibrated(self, epsilon: float, clip: float, releases: int) -> float:
        """The least scale with which ``releases`` releases of a row clipped to ``clip`` have this ``epsilon``."""

    @abstractmethod
    def spent(self, clip: float, scale: float, releases: int) -> float:
        """The epsilon of ``releases`` releases: the inverse of `calibrated`."""

    @abstractmethod
    def mechanism(self, clip: float, scale: float) -> str:
        """A noun phrase for the guarantee."""

    def sensitivity(self, clip: float) -> float | None:
        """How far a neighbouring input moves a clipped row in L2, where epsilon follows from that; else None."""
        return None

    def failure(self) -> float:
        """Delta of the guarantee; 0 for a pure one."""
        return 0.0

    def __post_init__(self) -> None:
        given, name = self._given, self.scale_name
        if self.epsilon is not None and given is not None:
            raise BadSetting(
                f"{self.name}: epsilon={self.epsilon} and {name}={given} were both given; one follows from the other. "
                "Give one"
            )
        if given is None:
            self.epsilon = 8.0 if self.epsilon is None else self.epsilon
            in_range(self.name, "epsilon", self.epsilon)
            if self.clip == "none":
                raise BadSetting(
                    f"{self.name}: clip: none leaves no sensitivity, so no epsilon; give a clip, or {name}"
                )
        elif given != 0:
            in_range(self.name, name, given)
        if isinstance(self.clip, str):
            one_of(self.name, "clip", self.clip, ("auto", "none"))
        else:
            in_range(self.name, "clip", self.clip)
        one_of(self.name, "adjacency", self.adjacency, get_args(privacy.Adjacency))
        self.phases = checked_phases(self.name, self.phases)

    @property
    def _given(self) -> float | None:
        value: float | None = getattr(self, self.scale_name)
        return value

    def bind(self, deployment: Deployment) -> None:
        """Fixes clip and noise for this deployment, and what they guarantee there."""
        releases = deployment.releases
        self._planned = {str(phase.value): releases.get(phase, 0) for phase in Phase}
        if isinstance(self.clip, str):
            clip = math.inf if self.clip == "none" else median_norm(deployment, order=self.order)
        else:
            clip = float(self.clip)
        scale = self._given
        if scale is None:
            assert self.epsilon is not None
            scale = self.calibrated(self.epsilon, clip, self._counted)
        self._scale = (clip, scale)
        accounted = scale > 0 and clip < math.inf
        self._ledger = privacy.Ledger(self._planned) if accounted else None
        self._guarantee = self._statement(deployment) if accounted else None

    @property
    def _counted(self) -> int:
        """T that the noise is set for: of a training row, or of a query row where training is not protected."""
        return max(self._planned["training" if "training" in self.phases else "query"], 1)

    @property
    def _bound(self) -> tuple[float, float]:
        """Clip and scale."""
        if self._scale is None:
            raise NotSupported(
                f"{self.name}: clip and noise are set for a deployment; call bind before anything is sent"
            )
        return self._scale

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """The clipped row and noise, (N, *cut1), counted in the ledger; ``smashed`` where unprotected."""
        if not is_protected(ctx.phase, self.phases):
            return smashed
        if smashed.dim() < 2 or not smashed.is_floating_point() or len(smashed) != len(ctx.ids):
            raise BadSetting(
                f"{self.name}: smashed data must be floating point, of shape (N, ...) with an id for each of N rows; "
                f"got {smashed.dtype} of shape {tuple(smashed.shape)} and {len(ctx.ids)} ids"
            )
        if not bool(torch.isfinite(row_norms(smashed.detach(), order=self.order)).all()):
            raise Diverged(f"{self.name}: smashed data is not finite, so no clip bounds it; nothing was sent")
        if self._ledger is not None:
            self._ledger.charge(ctx.ids, ctx.phase)
        return self.released_like(smashed, generator)

    def during(self, phase: Phase) -> Defense:
        """The baseline in a phase that is not protected."""
        return self if is_protected(phase, self.phases) else Defense()

    def mean_release(self, smashed: Tensor) -> Tensor:
        """``clip_C(smashed)``."""
        return clip_rows(smashed, self._bound[0], order=self.order).to(smashed.dtype)

    def noise_std(self) -> float:
        """In units of the smashed data."""
        return self.spread * self._bound[1]

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``clip_C(smashed)`` and fresh noise from ``generator``, rounded as a sum; no ledger counts this."""
        clip, scale = self._bound
        clipped = clip_rows(smashed, clip, order=self.order)
        if scale > 0:
            clipped = clipped + scale * self.unit_noise(clipped, generator).to(clipped.device)
        return clipped.to(smashed.dtype)

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the inputs; none without a clip or without noise."""
        return () if self._guarantee is None else (self._guarantee,)

    def _statement(self, deployment: Deployment) -> Guarantee:
        clip, scale = self._bound
        training, query = ("training" in self.phases), ("query" in self.phases)
        rows = self.spent(clip, scale, self._counted) if training else None
        holes = view_holes(deployment) if training else ["training rows are sent without clip or noise"]
        unprotected = [] if query else ["what is sent in evaluation and in queries has neither clip nor noise"]
        sent = self._planned["evaluation"]
        if query and sent > 1:
            unprotected = [f"the epsilon of a query counts one sending, where evaluations send a test row {sent} times"]
        return Guarantee(
            channel="inputs",
            epsilon_rows=rows,
            epsilon=None if holes else rows,
            epsilon_query=self.spent(clip, scale, 1) if query else None,
            delta=self.failure(),
            adjacency=self.adjacency,
            sensitivity=self.sensitivity(clip),
            T=self._counted,
            adversary=adversary(deployment.mode),
            mechanism=self.mechanism(clip, scale),
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
        clip, scale = state["scale"]
        self._scale, self._planned = (clip, scale), dict(state["planned"])
        self._ledger = None if state["ledger"] is None else privacy.Ledger(self._planned)
        if self._ledger is not None:
            self._ledger.load_state_dict(state["ledger"])
        self._guarantee = None if state["guarantee"] is None else Guarantee.from_dict(state["guarantee"])


def is_protected(phase: Phase, phases: Sequence[Protected]) -> bool:
    """Whether rows sent in ``phase`` are; evaluation belongs to ``query``."""
    return ("training" if phase is Phase.TRAINING else "query") in phases


def checked_phases(owner: str, phases: Sequence[Protected] | str) -> tuple[Protected, ...]:
    """The phases in a fixed order, as they may be written in a file: one name, or several in any order.

    Raises:
        BadSetting: for an unknown one, or none.
    """
    given = [phases] if isinstance(phases, str) else list(phases)
    for phase in given:
        one_of(owner, "phase", phase, PHASES)
    if not given:
        raise BadSetting(f"{owner}: phases is empty, so nothing is protected; give training, query or both")
    return tuple(p for p in PHASES if p in given)


def in_range(owner: str, name: str, value: float, *, below: float = math.inf) -> None:
    """Raises `BadSetting` unless ``value`` lies above 0 and below ``below``."""
    if not 0 < value < below:
        raise BadSetting(f"{owner}: {name} must lie above 0 and below {below}; got {value!r}")
