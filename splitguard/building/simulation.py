# SPDX-License-Identifier: Apache-2.0
"""A simulated client on the server's own live layers, aligned with the true one by a critic."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.building.critics import looks_like, make_critic, told_apart
from splitguard.building.learners import Learners, rows_of, seeded
from splitguard.building.recent import Recent
from splitguard.building.simulate import abreast, as_released, as_stated, as_trained
from splitguard.engine.roles import OnlineAttack
from splitguard.engine.threat import Labels
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange
from splitguard.errors import BadSetting, NotSupported

__all__ = ["Seen", "Simulation"]

#: Rate of dropout before a critic's last layer, as in the code of the paper that this is from.
DROPOUT = 0.4


class Seen(NamedTuple):
    """Both sides of one step of the simulation.

    Attributes:
        images: (N, *in), auxiliary.
        made: (N, *cut1), what the simulated client sends of them.
        labels: (N,), theirs; None where the attacker is told none of the victims'.
        sent: (M, *cut1), the client's batch.
        told: (M,), its labels, or None.
    """

    images: Tensor
    made: Tensor
    labels: Tensor | None
    sent: Tensor
    told: Tensor | None


@dataclass(kw_only=True)
class Simulation(OnlineAttack):
    """The simulated client, trained at each step of the session; subclasses say what is made of it.

        head e, tail h:  min  CE(h(g(e(x))), y) + p(e(x)) + l1 BCE(D1(e(x), y), 1)          (h without the last term)
        critic D1:       min  BCE(D1(z, y_z), 1) + BCE(D1(e(x), y), 0)

    over auxiliary rows (x, y) and the client's batch z with labels y_z. g is the live body, in eval mode, which
    gradients pass and nothing moves; e has the head's architecture and is in train mode, as the client's head is. In
    vanilla g ends in the logits and there is no h; in u-shaped h is one linear layer of the attacker's own, D1 is told
    no labels, and each y is replaced by a random one with probability ``flip``, so that e and h do not overfit. What e
    sends goes through a fresh draw of the defense, in vanilla y is what the defense states in place of the label, and p
    is what it adds to the client's loss; an attacker that is not adaptive leaves all three out.

    Where there is a p, an adaptive attacker simulates two clients side by side, one with p and one without, and takes
    the mean of what comes of them; see `ways`.

    When the session is over it goes on for ``finish`` steps, with the final body and the rows that crossed last: on a
    copy, so that an attack may be run on several views of one session, in any order.
    """

    steps: int = 1
    first_step: int = 0
    finish: int = 200
    keep: int = 256
    l1: float = 1.0
    flip: float = 0.2
    lr: float = 1e-3
    critic_lr: float = 1e-3
    critic_width: int = 64
    batch_size: int = 64
    _learners: tuple[Learners, ...] = field(default=(), init=False, repr=False, compare=False)
    _recent: Recent = field(default_factory=lambda: Recent(0), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = {"steps": 1, "first_step": 0, "finish": 0, "keep": 0, "l1": 0, "critic_width": 1, "batch_size": 2}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise BadSetting(f"{self.name}: {name} must be at least {least}; got {getattr(self, name)!r}")
        if not 0 <= self.flip <= 1:
            raise BadSetting(f"{self.name}: flip is a probability in [0, 1]; got {self.flip!r}")
        for name in ("lr", "critic_lr"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"{self.name}: {name} must be positive; got {getattr(self, name)!r}")

    def start(self, view: View, generator: torch.Generator) -> None:
        """Draws the networks."""
        view.need(self.threat.needs)
        self._told = self._labels_told(view)
        self._learners = tuple(self._drawn(view, own) for _, own in abreast(view, generator))
        self._recent, self._seconds = Recent(self.keep), 0.0

    def _drawn(self, view: View, generator: torch.Generator) -> Learners:
        """The networks of one simulated client."""
        nets: dict[str, tuple[nn.Module, float]] = {"head": (view.blank_head(generator), self.lr)}
        if view.labels is Labels.CLIENT:
            width = torch.Size(view.cut_shapes[1]).numel()
            with seeded(generator, view.aux.inputs):
                nets["tail"] = nn.Sequential(nn.Flatten(), nn.Linear(width, view.classes)), self.lr
        if self.l1:
            nets["critic"] = self._critic(view.cut_shapes[0], generator), self.critic_lr
        return Learners(nets | self._more(view, generator))

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Keeps what crossed, and learns from it; a batch of a single row, which has no statistics, is passed over."""
        self._recent.add(exchange)
        if exchange.step < self.first_step or exchange.batch_size < 2:
            return
        began, sent = time.perf_counter(), exchange.smashed
        told = exchange.labels if self._told else None
        body = view.body().eval()
        for nets in self._clients:
            nets.to(sent)
        for nets, (way, own) in zip(self._clients, abreast(view, generator), strict=True):
            with seeded(own, sent):
                for _ in range(self.steps):
                    self._step(nets, body, way, sent, told, own)
        self._seconds += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """The networks, their optimizers, the rows that crossed last, and the time spent."""
        return {
            "nets": [nets.state_dict() for nets in self._clients],
            "recent": self._recent.state_dict(),
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for nets, kept in zip(self._clients, state["nets"], strict=True):
            nets.load_state_dict(kept)
        self._recent.load_state_dict(state["recent"])
        self._seconds = float(state["seconds"])

    @abstractmethod
    def _use(self, nets: Learners, seen: Seen) -> None:
        """What else is learned in each step."""

    def _labels_told(self, view: View) -> int:
        """How many classes the labels have that the attacker is told of the victims' rows, and uses; 0 for none."""
        return 0

    def _more(self, view: View, generator: torch.Generator) -> dict[str, tuple[nn.Module, float]]:
        """Further networks, each with its step size."""
        return {}

    def _critic(self, shape: tuple[int, ...], generator: torch.Generator) -> nn.Module:
        return make_critic(
            shape, width=self.critic_width, blocks=1, dropout=DROPOUT, classes=self._told, generator=generator
        )

    def _step(
        self,
        nets: Learners,
        body: Callable[[Tensor], Tensor],
        view: View,
        sent: Tensor,
        told: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        """One step of one client, all losses taken before any network moves."""
        aux = view.aux
        chosen = rows_of(len(aux), min(self.batch_size, len(aux)), generator)
        images, labels = aux.inputs[chosen].to(sent), aux.labels[chosen].to(sent.device)
        smashed = nets["head"](images)
        made = as_released(view, smashed, generator)
        # An in-place first layer of the body must not write into what the critic sees.
        scores = body(made.clone())
        if "tail" in nets:
            scores, labels = nets["tail"](scores), self._flipped(labels, view.classes, generator)
        else:
            labels = as_stated(view, labels, generator)
        task = cross_entropy(scores, labels)
        loss, losses = task + as_trained(view, images, labels, smashed, generator), []
        known = None if told is None else labels
        if "critic" in nets:
            fake = nets["critic"](made, known)
            loss = loss + self.l1 * looks_like(fake, True)
            losses.append((told_apart(nets["critic"](sent, told), fake), "critic"))
        nets.learn((loss, "head"), *([(task, "tail")] if "tail" in nets else []), *losses)
        self._use(nets, Seen(images, made.detach(), known, sent, told))

    def _flipped(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """Each label replaced by one drawn evenly among all classes, with probability ``flip``."""
        other = torch.randint(classes, labels.shape, generator=generator).to(labels)
        hit = torch.rand(labels.shape, generator=generator).to(labels.device) < self.flip
        return torch.where(hit, other, labels)

    @property
    def _clients(self) -> tuple[Learners, ...]:
        assert self._learners, "the session calls `start` first"
        return self._learners

    @property
    def _steps(self) -> int:
        """Optimizer steps taken by all networks of all clients."""
        return sum(nets.steps for nets in self._learners)

    def _finished(
        self, body: Callable[[Tensor], Tensor], view: View, generator: torch.Generator
    ) -> tuple[Learners, ...]:
        """A copy of each client's networks after ``finish`` more steps.

        Raises:
            NotSupported: where there was nothing to watch.
        """
        if self._steps == 0:
            raise NotSupported(
                f"{self.name} has learned nothing: it must watch the session while it trains (beside=[...]), and "
                f"first_step={self.first_step} must lie below the number of rounds"
            )
        clients, like = copy.deepcopy(self._learners), view.aux.inputs
        for nets in clients:
            nets.to(like)
        for nets, (way, own) in zip(clients, abreast(view, generator), strict=True):
            with seeded(own, like):
                for _ in range(self.finish if len(self._recent) > 1 else 0):
                    sent, labels = self._recent.draw(self.batch_size, own, like.device)
                    told = labels if self._told else None
                    self._step(nets, body, way, sent.to(like), told, own)
        return clients
