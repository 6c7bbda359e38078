# SPDX-License-Identifier: Apache-2.0
"""Attacks that sit beside a session or in a seat of it: what they are shown at each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from splitguard.engine.roles import ClientAttack, OnlineAttack, ServerAttack
from splitguard.engine.threat import Party, Sees
from splitguard.engine.view import CHANNELS, View
from splitguard.engine.wire import Exchange

__all__ = ["Observer"]

T = TypeVar("T")


class Observer:
    """Shows a session to one online attack, masked to what it may see, and keeps the session's bits out of its reach.

    Args:
        attack: it watches.
        view: what it knows before the first step; its body is replaced by a copy kept in step with the live one.
        generator: the attack's own randomness.
        body: the live body.
    """

    def __init__(self, attack: OnlineAttack, view: View, generator: torch.Generator, body: nn.Module) -> None:
        self.attack = attack
        self._generator = generator
        self._copy = copy.deepcopy(body).requires_grad_(False)
        self._view = replace(view, models=replace(view.models, body=lambda: self._copy))
        self._quietly(lambda: attack.start(self._view, generator))

    def notify(self, exchanges: Sequence[Exchange], body: nn.Module) -> None:
        """After a round: brings the copy of the body up to date and shows each exchange that reaches the attack."""
        self.follow(body)
        for shown in map(self.masked, filter(self._reaches, exchanges)):
            self._quietly(partial(self.attack.observe, shown, self._view, self._generator))

    def follow(self, body: nn.Module) -> None:
        """Brings the copy of the body up to date."""
        with torch.no_grad():
            live = body.state_dict()
            for name, mine in self._copy.state_dict().items():
                mine.copy_(live[name])
        self._copy.train(body.training)

    def _reaches(self, exchange: Exchange) -> bool:
        """Whether the attack sees smashed data, and these: an attacking client is client 0, and sees its own alone."""
        of_others = self._view.party is Party.CLIENT and exchange.client != 0
        return self._view.sees(Sees.SMASHED) and not of_others

    def masked(self, exchange: Exchange) -> Exchange:
        """A copy of the exchange without the channels that are not granted, in memory of its own."""
        visible: dict[str, Any] = {}
        for name in ("smashed", *CHANNELS):
            value = getattr(exchange, name)
            hidden = name in CHANNELS and not self._view.shows(name)
            visible[name] = None if hidden or value is None else value.detach().clone()
        return replace(exchange, ids=exchange.ids.clone(), **visible)

    def forward(self, exchange: Exchange, honest: Tensor | None) -> Tensor | None:
        """What an attack in the server's seat sends to the tail."""
        attack = self.attack
        assert isinstance(attack, ServerAttack)
        out = self._quietly(lambda: attack.forward(self.masked(exchange), honest))
        return None if out is None else out.detach()

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        """What an attack in the server's seat returns to the head."""
        attack = self.attack
        assert isinstance(attack, ServerAttack)
        return self._quietly(lambda: attack.backward(self.masked(exchange), honest)).detach()

    def client_grads(self, grads: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        """What an attack in the client's seat applies to its own layers."""
        attack = self.attack
        assert isinstance(attack, ClientAttack)
        return self._quietly(lambda: attack.client_grads(grads, step))

    def state_dict(self) -> dict[str, Any]:
        """The attack's state and its randomness."""
        return {"attack": self.attack.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.attack.load_state_dict(state["attack"])
        self._generator.set_state(state["generator"])

    def _quietly(self, act: Callable[[], T]) -> T:
        """Runs the attack in a fork of the global random numbers, so that nothing it does there is felt."""
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            return act()
