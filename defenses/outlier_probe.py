# SPDX-License-Identifier: Apache-2.0
"""A detector of hijacking: the client rehearses the training alone, and gradients unlike those are outliers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.api import (
    DEFENSES,
    Alarm,
    BadSetting,
    Defense,
    Deployment,
    Exchange,
    NotSupported,
    Spec,
    SplitModel,
    derive,
)
from splitguard.api import generator as seeded
from splitguard.building.detection import check_settings, gradient_shape, need_hijackable, suspicion
from splitguard.building.rehearsal import rehearse

__all__ = ["OutlierProbe"]


@DEFENSES.add("outlier-probe")
@dataclass(kw_only=True)
class OutlierProbe(Defense):
    """Trains the whole network alone first, and asks whether the gradients that are returned look like those it saw.

    Before the session the client trains its head and a body of the same architecture with weights of its own on
    auxiliary rows. Of the cut gradient of each step it keeps four numbers free of scale and basis
    (`splitguard.building.detection.gradient_shape`): how alike rows of one label are, rows of two labels, how much all
    rows pull one way, and how equally hard. In the session, a gradient is an outlier where the local outlier factor of
    these numbers among the rehearsed ones (its distance from its neighbours against theirs from their own; about 1 for
    one of them) lies above ``factor``. The alarm is raised where more than ``threshold`` of the last ``window``
    gradients are outliers; its score is 1/2 at that point, the share rescaled. Each client judges by its own exchanges;
    nothing that crosses changes. The client must know the body's architecture and pay for the rehearsal.

    It does not catch: a server that adds the task's gradient to its own (multi-task) with enough weight; one that is
    honest for most of every window, or until the client has stopped looking. SplitSpy, which answers probes honestly,
    meets none here. It falsely alarms where the session's training is unlike the rehearsal: another optimizer, other
    data, or a later stage than was rehearsed.

    Args:
        steps: of the rehearsal, at most as many gradients to compare with.
        lr: of the rehearsal's SGD; best that of the session.
        momentum: of the rehearsal's SGD.
        neighbours: of the local outlier factor; all there are, if they are fewer.
        factor: above it a gradient is an outlier; more than 1.
        window: gradients that vote, 1 for each by itself.
        threshold: the share of outliers in the window, in (0, 1).
        stop: whether the session ends at the alarm.

    Raises:
        BadSetting: for settings outside their range; from `bind`, without auxiliary rows.
        NotSupported: from `bind`, where labels are not sent, the head is frozen, or `wrap` was never called.

    Source: Erdogan, Teksen, Celiktenyildiz, Kupcu, Cicek, SplitOut: out-of-the-box training-hijacking detection in
    split learning via outlier detection, CANS 2024 (arXiv 2302.08618). Differences: auxiliary rows, where the paper
    takes 1 % of the client's own; the rehearsal starts from the client's own head. The four numbers, where they take
    the gradient of the client's first weight as it is, which depends on the weights of one body, on how far it is
    trained, and on a scale that the server may choose: on `faces` those of a hijacker lay among the rehearsed ones.
    Fewer neighbours than all, which they take: with all, the factor of a far-off intruder is close to 1 as well (on
    `faces` 1.0 to 1.1, against 5 with 20 neighbours).
    """

    steps: int = 100
    lr: float = 0.05
    momentum: float = 0.9
    neighbours: int = 20
    factor: float = 2.5
    window: int = 10
    threshold: float = 0.5
    stop: bool = True
    _body: nn.Module | None = field(default=None, init=False, repr=False, compare=False)
    _seed: int = field(default=0, init=False, repr=False, compare=False)
    _rehearsed: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _judge: Any = field(default=None, init=False, repr=False, compare=False)
    _votes: dict[int, list[bool]] = field(default_factory=dict, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Erdogan et al., SplitOut, CANS 2024"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "nothing that crosses; detects hijacking"
    null: ClassVar[Mapping[str, Any] | None] = {"stop": False}
    breakers: ClassVar[tuple[Spec, ...]] = ("fsha", "pcat")

    def __post_init__(self) -> None:
        check_settings(
            self.name,
            whole={"steps": (self.steps, 3), "neighbours": (self.neighbours, 1), "window": (self.window, 1)},
            shares={"threshold": self.threshold},
        )
        if not (self.lr > 0 and 0 <= self.momentum < 1 and self.factor > 1):
            raise BadSetting(
                f"{self.name}: lr must be positive, momentum in [0, 1), and factor above 1; got lr={self.lr!r}, "
                f"momentum={self.momentum!r}, factor={self.factor!r}"
            )

    def wrap(self, split: SplitModel, generator: torch.Generator) -> SplitModel:
        """The same network; its body's architecture is noted, and the rehearsal's seed drawn."""
        self._body = copy.deepcopy(nn.Sequential(split.body, *([split.tail] if split.tail is not None else [])))
        self._seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return split

    def bind(self, deployment: Deployment) -> None:
        """Rehearses."""
        need_hijackable(deployment, self.name)
        if not len(deployment.aux):
            raise BadSetting(f"{self.name}: it rehearses on auxiliary rows, and there are none; set data: {{aux: ...}}")
        if self._body is None:
            raise NotSupported(f"{self.name}: it rehearses with the body, which `wrap` hands it before `bind`")
        self._learn(
            rehearse(
                deployment.head,
                self._body,
                deployment.aux,
                steps=self.steps,
                batch_size=deployment.batch_size,
                lr=self.lr,
                momentum=self.momentum,
                generator=seeded(derive(self._seed, "rehearsal")),
            )
        )

    def _learn(self, shapes: Tensor) -> None:
        from sklearn.neighbors import LocalOutlierFactor

        self._rehearsed = shapes
        self._judge = LocalOutlierFactor(n_neighbors=min(self.neighbours, len(shapes) - 1), novelty=True).fit(
            shapes.numpy()
        )

    def alarm(self, exchange: Exchange) -> Alarm | None:
        """After each batch, once the window is full."""
        if self._judge is None or exchange.cut_grad is None or exchange.labels is None:
            return None
        shape = gradient_shape(exchange.cut_grad, exchange.labels)
        if shape is None:
            return None
        votes = self._votes.setdefault(exchange.client, [])
        votes.append(bool(-self._judge.score_samples(shape.numpy()[None])[0] > self.factor))
        del votes[: -self.window]
        if len(votes) < self.window:
            return None
        share = sum(votes) / self.window
        return Alarm(suspicion(share, self.threshold), stop=self.stop and share > self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """What was rehearsed, and the last votes of each client."""
        return {"rehearsed": self._rehearsed, "votes": {c: list(v) for c, v in self._votes.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state["rehearsed"] is not None:
            self._learn(state["rehearsed"])
        self._votes = {c: list(v) for c, v in state["votes"].items()}
