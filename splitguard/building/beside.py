# SPDX-License-Identifier: Apache-2.0
"""What attacks share that train a stand-in for the client beside a session, and go on with it afterwards."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from splitguard.building.inversion import Sent, mean_sent, train_inverse
from splitguard.building.learners import Learners
from splitguard.building.recent import Recent
from splitguard.building.simulate import abreast, unaware
from splitguard.engine.roles import Budget, Guess, OnlineAttack
from splitguard.engine.threat import Sees
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from splitguard.metrics import ssim

__all__ = ["Beside", "Body", "Given"]

#: One auxiliary image in so many is kept aside, where there are two decoders to choose from.
ASIDE = 10
#: Smashed data (N, *cut1) to logits, or to features (N, *cut2).
Body = Callable[[Tensor], Tensor]


class Given(NamedTuple):
    """What one step of the stand-in goes by.

    Attributes:
        sent: (n, *cut), smashed data of victims; None after a session of which none was kept.
        labels: (n,), theirs; None where they are not seen.
        body: the server's layers as they are, in eval mode, which keeps what their normalisation has learned from the
            victims' smashed data.
    """

    sent: Tensor | None
    labels: Tensor | None
    body: Body


@dataclass(kw_only=True)
class Beside(OnlineAttack):
    """Trains networks of its own with each exchange, then, on a copy, with the smashed data that came last.

    The network called ``client`` stands in for the client's head, inputs (N, *in) to smashed data (N, *cut1), and one
    called ``tail``, where there is one, for its tail.
    `finished` works on a copy, so that an attack may be run on several views of one session, in any order.

    Where a defense adds a penalty to the client's loss, an adaptive attacker trains two stand-ins side by side, with it
    and without, and takes the mean of what comes of them; see `ways`.

    Args:
        steps: optimizer steps an exchange.
        finish: optimizer steps after the session.
        batch_size: rows a step after the session, and images a step of the decoder.
        keep: rows of smashed data that are kept for the steps after the session, the latest ones.
        decode: optimizer steps of the decoder, and of each one that is tried.
        decoder_width: its channels.
        aux: auxiliary samples, at most.

    Raises:
        BadSetting: for a setting below its bound.
    """

    steps: int = 1
    finish: int = 200
    batch_size: int = 32
    keep: int = 128
    decode: int = 300
    decoder_width: int = 16
    aux: int = 2000
    _clients: tuple[Learners, ...] = field(default=(), init=False, repr=False, compare=False)
    _recent: Recent = field(default_factory=lambda: Recent(0), init=False, repr=False, compare=False)
    _seconds: float = field(default=0.0, init=False, repr=False, compare=False)

    #: The smallest value of each setting; a subclass adds its own.
    least: ClassVar[Mapping[str, float]] = {
        "steps": 1,
        "finish": 0,
        "batch_size": 2,
        "keep": 0,
        "decode": 1,
        "decoder_width": 1,
        "aux": 2,
    }

    def __post_init__(self) -> None:
        for name, bound in self.least.items():
            if not getattr(self, name) >= bound:
                raise BadSetting(f"{self.name}: {name} must be at least {bound}; got {getattr(self, name)!r}")

    @abstractmethod
    def networks(self, view: View, generator: torch.Generator) -> Learners:
        """The networks as they are before the first step, one of them ``client``."""

    @abstractmethod
    def learn(self, nets: Learners, view: View, given: Given, generator: torch.Generator) -> None:
        """One step of every network of one stand-in."""

    def begins(self, exchange: Exchange, view: View) -> bool:
        """Whether to learn from this exchange."""
        return True

    def start(self, view: View, generator: torch.Generator) -> None:
        """Draws the networks."""
        self._clients = tuple(self.networks(view, own) for _, own in abreast(view, generator))
        for nets in self._clients:
            nets.to(view.aux.inputs)  # a session in float64 is watched in float64
        self._recent, self._seconds = Recent(self.keep), 0.0

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Keeps what came, and learns from it."""
        began, clients = time.perf_counter(), self.watched()
        for nets in clients:
            nets.to(exchange.smashed)
        self._recent.add(exchange)
        if self.begins(exchange, view):
            given = Given(exchange.smashed, exchange.labels, self.body(view))
            for nets, (way, own) in zip(clients, abreast(view, generator), strict=True):
                for _ in range(self.steps):
                    self.learn(nets, way, given, own)
        self._seconds += time.perf_counter() - began

    def watched(self) -> tuple[Learners, ...]:
        """The networks of each stand-in, where the attack has watched a session.

        Raises:
            NotSupported: where it has not.
        """
        if not self._clients:
            raise NotSupported(f"{self.name} watches a session while it is trained: train(..., beside=[attack])")
        return self._clients

    def body(self, view: View) -> Body:
        """The server's layers as they are, in eval mode; an attack whose threat does not need them cannot call them."""
        if Sees.BODY not in self.threat.needs:
            return self._no_body
        layers = view.body().eval()
        # A first layer that works in place must not write into the smashed data.
        return lambda smashed: layers(smashed.clone())

    def _no_body(self, smashed: Tensor) -> Tensor:
        raise MissingKnowledge(
            f"{self.name} does not ask for the server's layers: its threat needs {self.threat.needs}"
        )

    def finished(self, view: View, generator: torch.Generator) -> tuple[Learners, ...]:
        """A copy of each stand-in after ``finish`` more steps, in eval mode and without gradients."""
        clients, body, like = copy.deepcopy(self.watched()), self.body(view), view.aux.inputs
        for nets, (way, own) in zip(clients, abreast(view, generator), strict=True):
            nets.to(like)
            for _ in range(self.finish):
                kept = len(self._recent) > 0
                sent, labels = self._recent.draw(self.batch_size, own, like.device) if kept else (None, None)
                self.learn(nets, way, Given(sent, labels, body), own)
            for name in ("client", "tail"):
                if name in nets:
                    nets[name].eval().requires_grad_(False)
        return clients

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1], the mean of what comes of each stand-in."""
        began = time.perf_counter()
        view.need(self.threat.needs)
        clients = self.finished(view, generator)
        each = zip(clients, abreast(view, generator), strict=True)
        found = [self.inverted(view, nets, own) for nets, (_, own) in each]
        images, steps, rested = (list(part) for part in zip(*found, strict=True))
        return Guess(
            view.ids,
            images=torch.stack(images).mean(0),
            budget=self.spent(view, clients, began, sum(steps)),
            converged=None if None in rested else all(rested),
        )

    def inverted(self, view: View, nets: Learners, generator: torch.Generator) -> tuple[Tensor, int, bool | None]:
        """Images (N, *in) by way of one finished stand-in, the steps taken for them, and whether they came to rest."""
        return *self.decoded(view, nets, generator), None

    def decoded(self, view: View, nets: Learners, generator: torch.Generator) -> tuple[Tensor, int]:
        """What a decoder, trained on a finished stand-in, makes of each victim's releases.

        Where there is a defense, an adaptive attacker also trains a decoder for the last release that knows of none,
        and takes the one that is better on auxiliary images kept aside, sent by the stand-in through the defense.

        Returns:
            (N, *in) in [0, 1], and the optimizer steps taken.
        """
        known, static = view.aux.inputs[: self.aux], unaware(view)
        aside = len(known) // ASIDE if static is not None else 0
        found, reached = [], []
        for way in (view, static) if static is not None and aside else (view,):
            sent = Sent.of(way)
            inverse = train_inverse(
                way,
                nets["client"],
                known[aside:],
                times=sent.times,
                steps=self.decode,
                width=self.decoder_width,
                batch_size=self.batch_size,
                generator=generator,
            )
            found.append(inverse(sent.smashed.to(known)))
            if aside:
                shown = mean_sent(view, nets["client"], known[:aside], sent.times, generator)
                reached.append(float(ssim(inverse(shown), known[:aside]).mean()))
        better = reached[1:] > reached[:1]
        return found[better], len(found) * self.decode

    def spent(self, view: View, clients: Sequence[Learners], began: float, more: int = 0) -> Budget:
        """The stand-ins' steps and ``more``, and the seconds since ``began`` on top of those beside the session."""
        steps, used = sum(nets.steps for nets in clients) + more, min(len(view.aux), self.aux)
        return Budget(steps=steps, aux=used, seconds=self._seconds + time.perf_counter() - began)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, and the smashed data kept."""
        nets, recent = [nets.state_dict() for nets in self.watched()], self._recent.state_dict()
        return {"nets": nets, "recent": recent, "seconds": self._seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, after `start`."""
        for nets, kept in zip(self.watched(), state["nets"], strict=True):
            nets.load_state_dict(kept)
        self._recent.load_state_dict(state["recent"])
        self._seconds = float(state["seconds"])
