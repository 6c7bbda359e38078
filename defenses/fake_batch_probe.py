# SPDX-License-Identifier: Apache-2.0
"""A detector of hijacking: now and then a batch goes out with wrong labels, and an honest server must be surprised."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, Alarm, BadSetting, Context, Defense, Deployment, Exchange, Spec
from splitguard.building.detection import affine_gradient, check_settings, need_hijackable, suspicion

__all__ = ["FakeBatchProbe", "split_score"]

#: The sets of gradients that are compared: of fake batches, and two halves of the regular ones.
FAKE, ONE, TWO = range(3)


@dataclass
class _Sums:
    """Of one client: batches seen, what the present one is, and per set the count, the sum and the sum of lengths."""

    seen: int = 0
    kind: int | None = None
    count: list[int] = field(default_factory=lambda: [0, 0, 0])
    length: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    total: list[Tensor | None] = field(default_factory=lambda: [None, None, None])
    scores: list[float] = field(default_factory=list)


@DEFENSES.add("fake-batch-probe")
@dataclass(kw_only=True)
class FakeBatchProbe(Defense):
    """Sends some batches with wrong labels and compares their gradients F with those of regular batches, R = R1 + R2.

        S = (angle(F, R) |f - r| - angle(R1, R2) |r1 - r2|) / (|f - r| + |r1 - r2|)
        SG = sigmoid(gain S)^power

    angle is between the mean gradients of two sets, in radians; f, r, r1, r2 are the mean lengths. A server that trains
    on the labels answers wrong ones with longer gradients in another direction, and SG goes to 1; one that does not
    look at them answers as always, S is about 0, and SG about ``2^-power``. The alarm is raised where the mean of the
    last ``window`` SG lies below ``threshold``; its score is 1/2 at that point, 1 - SG rescaled. Each client judges by
    its own exchanges, and its head does not train on fake batches; the body of an honest server does.

    It does not catch: SplitSpy, whose server takes a batch that its own classifier finds mislabelled for a fake and
    answers it honestly; a server that adds the task's gradient to its own (multi-task), and so depends on labels; one
    that is honest until the client has stopped probing; one whose harm is done within ``warm_up``. It falsely alarms
    while the task has not been learnt yet: wrong labels surprise nobody then.

    Args:
        share: of batches that are fake, after the warm-up; 0 sends none, so that nothing is done, to the bit.
        warm_up: batches of a client before anything is probed or recorded; the task must have been learnt somewhat.
        gain: factor in the sigmoid.
        power: exponent of the sigmoid.
        window: how many of the last scores are averaged; no alarm before there are so many.
        threshold: of the mean SG, in (0, 1).
        stop: whether the session ends at the alarm.

    Raises:
        BadSetting: for settings outside their range.
        NotSupported: from `bind`, where labels are not sent or the head is frozen.

    Source: Erdogan, Kupcu, Cicek, SplitGuard: detecting and mitigating training-hijacking attacks in split learning,
    WPES 2022 (arXiv 2108.09052), with its labels (y + r) mod K, one r a batch, its share, warm-up, gain and power.
    Differences: the gradient is that of an affine layer at the cut (`splitguard.building.detection.affine_gradient`),
    theirs that of the client's first weight; every r in 1..K-1 is drawn, theirs never the last; window and threshold.
    """

    share: float = 0.1
    warm_up: int = 20
    gain: float = 5.0
    power: float = 2.0
    window: int = 5
    threshold: float = 0.7
    stop: bool = True
    _clients: dict[int, _Sums] = field(default_factory=dict, init=False, repr=False, compare=False)
    _classes: int = field(default=0, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Erdogan, Kupcu, Cicek, SplitGuard, WPES 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "labels of probes; detects hijacking"
    null: ClassVar[Mapping[str, Any] | None] = {"share": 0.0}
    breakers: ClassVar[tuple[Spec, ...]] = ("fsha", "pcat")

    def __post_init__(self) -> None:
        check_settings(
            self.name,
            whole={"warm_up": (self.warm_up, 0), "window": (self.window, 1)},
            shares={"threshold": self.threshold, **({"share": self.share} if self.share else {})},
        )
        for name in ("gain", "power"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadSetting(f"{self.name}: {name} must be positive and finite; got {getattr(self, name)!r}")

    def bind(self, deployment: Deployment) -> None:
        """Learns the number of classes."""
        if self.share:
            need_hijackable(deployment, self.name)
        self._classes = deployment.classes

    def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
        """``(labels + r) mod K`` for a fake batch, all of them wrong; None for a regular one."""
        if not self.share or self._classes < 2:
            return None
        own = self._clients.setdefault(ctx.client, _Sums())
        own.seen += 1
        own.kind = None
        if own.seen <= self.warm_up:
            return None
        drawn = float(torch.rand((), generator=generator, device=generator.device))
        own.kind = FAKE if drawn < self.share else ONE if drawn < self.share + (1 - self.share) / 2 else TWO
        if own.kind != FAKE:
            return None
        shift = int(torch.randint(1, self._classes, (), generator=generator, device=generator.device))
        return (labels + shift) % self._classes

    def alarm(self, exchange: Exchange) -> Alarm | None:
        """After each fake batch, once there are enough of them."""
        own, gradient = self._clients.get(exchange.client), affine_gradient(exchange)
        if own is None or own.kind is None or gradient is None:
            return None
        kind, before = own.kind, own.total[own.kind]
        own.count[kind] += 1
        own.length[kind] += float(gradient.norm())
        own.total[kind] = gradient if before is None else before + gradient
        own.kind = None
        if kind != FAKE or not (own.count[ONE] and own.count[TWO]):
            return None
        own.scores.append(self._score(own))
        if len(own.scores) < self.window:
            return None
        mean = sum(own.scores[-self.window :]) / self.window
        return Alarm(suspicion(1 - mean, 1 - self.threshold), stop=self.stop and mean < self.threshold)

    def _score(self, own: _Sums) -> float:
        means = [total / n for total, n in zip(own.total, own.count, strict=True) if total is not None]
        lengths = [length / n for length, n in zip(own.length, own.count, strict=True)]
        parted = split_score(means, lengths, own.count)
        return float(torch.sigmoid(torch.tensor(self.gain * parted, dtype=torch.float64)) ** self.power)

    def state_dict(self) -> dict[str, Any]:
        """The number of classes, and of each client what was summed up."""
        return {
            "classes": self._classes,
            "clients": {number: copy.deepcopy(vars(own)) for number, own in self._clients.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._classes = state["classes"]
        self._clients = {}
        for number, saved in state["clients"].items():
            plain: dict[str, Any] = {k: list(v) if isinstance(v, list) else v for k, v in saved.items()}
            self._clients[number] = _Sums(**plain)


def split_score(means: list[Tensor], lengths: list[float], counts: list[int]) -> float:
    """S of the mean gradients, mean lengths and sizes of F, R1 and R2; 0 where all lengths agree.

    Args:
        means: three vectors (D,).
        lengths: of the single gradients, on average.
        counts: how many, at least one each.

    Returns:
        In [-pi, pi].
    """
    regular = counts[ONE] + counts[TWO]
    mean = (means[ONE] * counts[ONE] + means[TWO] * counts[TWO]) / regular
    length = (lengths[ONE] * counts[ONE] + lengths[TWO] * counts[TWO]) / regular
    far, near = abs(lengths[FAKE] - length), abs(lengths[ONE] - lengths[TWO])
    if far + near == 0:
        return 0.0
    return (_angle(means[FAKE], mean) * far - _angle(means[ONE], means[TWO]) * near) / (far + near)


def _angle(first: Tensor, second: Tensor) -> float:
    """In radians, 0..pi; 0 where either is 0, which has no direction."""
    scale = float(first.norm() * second.norm())
    return math.acos(min(max(float(first @ second) / scale, -1.0), 1.0)) if scale > 0 else 0.0
