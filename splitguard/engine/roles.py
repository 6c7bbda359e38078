# SPDX-License-Identifier: Apache-2.0
"""The attack's role, in four seats, and what an attack hands over."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from splitguard.engine.threat import Goal, Seat, Threat
from splitguard.engine.wire import Exchange

if TYPE_CHECKING:
    from splitguard.engine.view import View

__all__ = ["Attack", "Budget", "ClientAttack", "Guess", "OnlineAttack", "ServerAttack"]


@dataclass(frozen=True)
class Budget:
    """What an attack spent, tuning included: optimizer steps, queries, auxiliary samples, seconds."""

    steps: int = 0
    queries: int = 0
    aux: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Guess:
    """What an attack hands over; it answers for ``ids``, in that order, with the field that its goal asks for.

    Goals: inputs ``images``; labels ``labels`` or ``scores``; candidates ``choices``; attribute ``labels`` or
    ``scores`` over the values of the attribute; membership ``scores`` (N, 2), where column 1 stands for "was trained
    on"; functionality ``head``, and where the client holds a tail, ``tail``.

    Attributes:
        ids: (N,).
        images: (N, *in) in [0, 1].
        labels: (N,) int64.
        scores: (N, K), larger is more likely.
        choices: (N,) int64, index into the view's candidates.
        head: a stolen head, from inputs (N, *in) to smashed data (N, *cut1).
        tail: a stolen tail, from features (N, *cut2) to logits (N, K).
        budget: what it spent.
        converged: whether its optimisation had come to rest; None where it does not optimise.
        settings: what the attack tuned for itself, on auxiliary data.
    """

    ids: Tensor
    images: Tensor | None = None
    labels: Tensor | None = None
    scores: Tensor | None = None
    choices: Tensor | None = None
    head: nn.Module | None = None
    tail: nn.Module | None = None
    budget: Budget = field(default_factory=Budget)
    converged: bool | None = None
    settings: Mapping[str, float | int | str] = field(default_factory=dict)

    def cpu(self) -> Guess:
        """The same in main memory, whatever device it was made on."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ("images", "labels", "scores", "choices")}
        networks: dict[str, Any] = {name: copy.deepcopy(getattr(self, name)) for name in ("head", "tail")}
        moved: dict[str, Any] = {name: None if v is None else v.cpu() for name, v in (values | networks).items()}
        return replace(self, **moved)


class Attack(ABC):
    """An attack; subclasses are dataclasses whose fields are the settings. The base seat is AFTER.

    Class attributes:
        name: given by the registry.
        goal: what it is after.
        threat: what it needs and who can mount it.
        seat: where it sits.
        version: raised when the algorithm changes, so that cached results do not survive it.
        paper: its source, for lists and reports.
        quick: settings with which the contract runs it, where its defaults take more than seconds.
    """

    name: ClassVar[str] = ""
    goal: ClassVar[Goal]
    threat: ClassVar[Threat]
    seat: ClassVar[Seat] = Seat.AFTER
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @abstractmethod
    def run(self, view: View, generator: torch.Generator) -> Guess:
        """Guesses for ``view.ids``; all randomness comes from ``generator``."""

    def objective(self, view: View, images: Tensor) -> Tensor | None:
        """(N,): the loss that `run` minimises, at ``images``; None for attacks that do not optimise per victim.

        The runner calls it, after the guess is made, at the guess and at the truth: a guess whose loss is well
        above the truth's was not optimised well enough to prove anything.
        """
        return None


class OnlineAttack(Attack):
    """Sits BESIDE the session: honest but curious, it watches each step and must change no bit of it."""

    seat: ClassVar[Seat] = Seat.BESIDE

    @abstractmethod
    def start(self, view: View, generator: torch.Generator) -> None:
        """Before the first step; the view has no releases yet."""

    @abstractmethod
    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """After each step, with the exchange masked to what the adversary sees and the live body in the view."""

    def state_dict(self) -> dict[str, Any]:
        """All state, as tensors and plain values, so that a session can be resumed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


class ServerAttack(OnlineAttack):
    """Sits in the SERVER's seat: it may replace what the server returns."""

    seat: ClassVar[Seat] = Seat.SERVER

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Nothing by default: what it learns, it learns in `forward` and `backward`."""

    def forward(self, exchange: Exchange, honest: Tensor | None) -> Tensor | None:
        """The features (N, *cut2) to send to the tail in place of ``honest``; both None without a tail."""
        return honest

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        """The cut gradient (N, *cut1), of the batch mean, to send in place of ``honest``."""
        return honest


class ClientAttack(OnlineAttack):
    """Sits in the seat of client 0: it may replace the gradients of its own layers before its optimizer steps."""

    seat: ClassVar[Seat] = Seat.CLIENT

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Nothing by default."""

    @abstractmethod
    def client_grads(self, grads: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        """The gradients to apply in place of ``grads``, in the order of the head's (and tail's) parameters."""
