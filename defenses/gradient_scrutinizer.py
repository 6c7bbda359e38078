# SPDX-License-Identifier: Apache-2.0
"""A detector of hijacking: an honest server's gradients are more alike within a class than between classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from splitguard.api import DEFENSES, Alarm, BadSetting, Defense, Deployment, Exchange, Spec
from splitguard.building.detection import check_settings, need_hijackable, overlap, pair_similarity, suspicion

__all__ = ["GradientScrutinizer", "honest_score"]


@DEFENSES.add("gradient-scrutinizer")
@dataclass(kw_only=True)
class GradientScrutinizer(Defense):
    """Compares how alike the cut gradients of two rows are that share a label, and of two that do not.

    For each batch, s and d are the means over pairs of rows of ``(1 + cos(g_i, g_j)) / 2``, for equal and for different
    labels. Over the last ``window`` batches:

        G  the mean of s minus the mean of d
        E  mean squared error of a quadratic in time fitted to each of the two curves, averaged
        V  intersection over union of [mean - std, mean + std] of the two curves
        DS = sigmoid(gain (G |G|^-0.6 * -ln(7 E + e^-2) * -ln(V + e^-1) - 0.7))

    DS is near 1 for an honest server: the classes pull apart, smoothly, and no curve reaches into the other. A gradient
    that does not look at labels has G near 0 and V near 1. Where the last two factors are both negative their product
    is counted as 0. The alarm is raised where DS lies below ``threshold``; its score is 1/2 at that point, 1 - DS
    rescaled. Each client judges by its own exchanges; nothing that crosses changes.

    It does not catch: a server that adds the task's gradient to its own (multi-task) with enough weight; one that
    hijacks few batches of a window; one that starts when the client has stopped looking. SplitSpy, which answers probes
    honestly, meets none here. It falsely alarms where a batch holds few pairs, where rows of a class are nothing alike,
    and late in training, when well-fitted rows return gradients that are mostly rounding.

    Args:
        window: batches over which curves are taken, at least 4.
        warm_up: batches of a client that are left out first.
        gain: factor in the sigmoid.
        threshold: of DS, in (0, 1).
        stop: whether the session ends at the alarm.

    Raises:
        BadSetting: for settings outside their range.
        NotSupported: from `bind`, where labels are not sent or the head is frozen.

    Source: Fu, Ma, Zhu, Hu, Zhao, Jia, Xu, Jin, Zhang, Focusing on Pinocchio's nose: a gradients scrutinizer to thwart
    split-learning hijacking attacks using intrinsic attributes, NDSS 2023, with its score, gain and threshold.
    Differences: in their code the intersection of the honest curves begins at the smaller of the two low ends, that of
    the hijacked ones at the larger, so that the two are not comparable; here it is the larger for all. The window
    slides; theirs grows.
    """

    window: int = 20
    warm_up: int = 0
    gain: float = 5.0
    threshold: float = 0.5
    stop: bool = True
    _curves: dict[int, list[tuple[float, float]]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seen: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Fu et al., Focusing on Pinocchio's nose, NDSS 2023"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "nothing that crosses; detects hijacking"
    null: ClassVar[Mapping[str, Any] | None] = {"stop": False}
    breakers: ClassVar[tuple[Spec, ...]] = ("fsha", "pcat")

    def __post_init__(self) -> None:
        check_settings(
            self.name,
            whole={"window": (self.window, 4), "warm_up": (self.warm_up, 0)},
            shares={"threshold": self.threshold},
        )
        if not 0 < self.gain < math.inf:
            raise BadSetting(f"{self.name}: gain must be positive and finite; got {self.gain!r}")

    def bind(self, deployment: Deployment) -> None:
        """Refuses a deployment in which there is nothing to compare."""
        need_hijackable(deployment, self.name)

    def alarm(self, exchange: Exchange) -> Alarm | None:
        """After each batch, once the window is full."""
        if exchange.cut_grad is None or exchange.labels is None:
            return None
        self._seen[exchange.client] = self._seen.get(exchange.client, 0) + 1
        if self._seen[exchange.client] <= self.warm_up:
            return None
        pair = pair_similarity(exchange.cut_grad, exchange.labels)
        if pair is None:
            return None
        curve = self._curves.setdefault(exchange.client, [])
        curve.append(pair)
        del curve[: -self.window]
        if len(curve) < self.window:
            return None
        honest = honest_score(curve, gain=self.gain)
        return Alarm(suspicion(1 - honest, 1 - self.threshold), stop=self.stop and honest < self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """The curves and counts of each client."""
        return {"curves": {c: [list(p) for p in v] for c, v in self._curves.items()}, "seen": dict(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._curves = {c: [(s, d) for s, d in v] for c, v in state["curves"].items()}
        self._seen = dict(state["seen"])


def honest_score(curve: Sequence[tuple[float, float]], *, gain: float = 5.0) -> float:
    """DS in [0, 1] of at least 4 pairs (s, d) in order of time; near 1 for an honest server."""
    values = np.asarray(curve, dtype=np.float64).T
    time = np.linspace(-1, 1, values.shape[1])
    gap = float(values[0].mean() - values[1].mean())
    fits = [np.polynomial.polynomial.polyfit(time, each, 2) for each in values]
    errors = [each - np.polynomial.polynomial.polyval(time, fit) for each, fit in zip(values, fits, strict=True)]
    spans = [(float(each.mean() - each.std()), float(each.mean() + each.std())) for each in values]
    smooth = -math.log(7 * float(np.square(errors).mean()) + math.exp(-2))
    apart = -math.log(overlap(spans[0], spans[1]) + math.exp(-1))
    told = math.copysign(abs(gap) ** 0.4, gap) * smooth * apart
    if smooth < 0 and apart < 0:
        told = 0.0
    return 1 / (1 + math.exp(-gain * (told - 0.7)))
