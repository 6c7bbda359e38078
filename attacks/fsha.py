# SPDX-License-Identifier: Apache-2.0
"""Inputs by a server that trains the client's head into a feature space which it can invert."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from splitguard.api import (
    ATTACKS,
    BadSetting,
    Budget,
    Exchange,
    Goal,
    Guess,
    NotSupported,
    Party,
    Sees,
    ServerAttack,
    Threat,
    View,
)
from splitguard.building.critics import gradient_penalty, make_critic
from splitguard.building.learners import Learners, rows_of
from splitguard.building.pilots import Pilot, make_pilot
from splitguard.building.simulate import as_released

#: Victims decoded at once.
CHUNK = 256


@ATTACKS.add("fsha")
@dataclass(kw_only=True)
class Fsha(ServerAttack):
    """Returns, in place of the task's gradient, one that makes smashed data look like codes of its own autoencoder.

        client:       d/dz mean D(z)
        pilot P, inverse I:   min  mean (I(P(x)) - x)^2
        critic D:     min  mean D(P(x)) - mean D(z) + penalty * (||dD|| - slope)^2 between the two

    over batches x of auxiliary images, scaled to [-1, 1], and the client's batch z; then ``x_hat = I(z)``, scaled back
    to [0, 1]. The client minimises what it believes to be its loss, so its head becomes another P. In u-shaped the
    features go to the tail as they are; in splitfed each client of a round is hijacked in turn, by one critic. The task
    is not learned: the session's accuracy is the attack's.

    Codes go through a fresh draw of the defense on their way to D and I, so that smashed data behind a clip or noise
    can look like them. An attacker that is not adaptive leaves that out. Where the first batch shows no negative value,
    the cut lies after a ReLU, and P gets one too.

    Args:
        steps: rounds of training the three networks for each exchange.
        warm_up: steps of P and I alone, on auxiliary images, at the first exchange.
        lr: Adam's step size for P and I while the session runs.
        warm_lr: the same in the warm-up.
        critic_lr: Adam's step size for D.
        penalty: weight of the gradient penalty.
        slope: which slope of D it asks for, 0 or 1. With 0 the gradient falls to nothing when z looks like codes; with
            1, as in the paper, it keeps its length, fast clients run past them, and the weight is 500.
        gain: factor on the returned gradient, for clients whose optimizer feels it: Adam does not; SGD with large steps
            wants it far smaller, or the session breaks.
        width: channels of P's and I's first map; they double as the map halves.
        critic_width: channels of D.
        blocks: residual blocks of D.

    Raises:
        NotSupported: from `run`, if no gradient was ever returned: a frozen head cannot be hijacked.

    Source: Pasquini, Ateniese, Bernaschi, Unleashing the tiger: inference attacks on split learning, CCS 2021.
    Differences: the gradient penalty asks for the slope 0 (Mescheder, Geiger, Nowozin, ICML 2018) and takes the norm of
    a sample's whole gradient, where the code takes one for each channel; D halves the map to 4 pixels a side first, as
    the code means to and, its first layers being overwritten, does not; the warm-up; the defense; the ReLU; sizes
    follow the input and the cut. Clients that move as slowly as the code's, Adam at 1e-5, follow sooner with ``warm_up:
    0, critic_lr: 1e-4, slope: 1, penalty: 500, gain: 1``: codes that are learned beside them stay within their reach
    (benchmarks/reference_fsha). ``steps: 3, warm_up: 1000, width: 8, critic_lr: 1e-3`` brings a LeNet's client, Adam at
    5e-4, to the errors of the paper's log (benchmarks/reproduce, pasquini2021). The code's settings are ``lr: 1e-5,
    critic_lr: 1e-4, slope: 1, penalty: 500, gain: 1, warm_up: 0, width: 64, critic_width: 256, blocks: 6``, against
    clients that train with Adam at 1e-5.
    """

    steps: int = 1
    warm_up: int = 200
    lr: float = 1e-4
    warm_lr: float = 2e-3
    critic_lr: float = 2e-3
    penalty: float = 10.0
    slope: float = 0.0
    gain: float = 0.1
    width: int = 32
    critic_width: int = 64
    blocks: int = 2
    _learners: Learners | None = field(default=None, init=False, repr=False, compare=False)

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.AUX, (Party.SERVER,), active=True)
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Pasquini, Ateniese, Bernaschi, Unleashing the tiger, CCS 2021"
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "steps": 6,
            "warm_up": 100,
            "penalty": 500.0,
            "slope": 1.0,
            "gain": 0.5,
            "width": 8,
            "critic_width": 32,
            "blocks": 1,
        }
    )

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warm_up", 0), ("penalty", 0), ("width", 1), ("critic_width", 1)):
            if getattr(self, name) < least:
                raise BadSetting(f"fsha: {name} must be at least {least}; got {getattr(self, name)!r}")
        if self.slope not in (0, 1):
            raise BadSetting(f"fsha: slope is 0 or 1; got {self.slope!r}")
        for name in ("lr", "warm_lr", "critic_lr", "gain"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"fsha: {name} must be positive; got {getattr(self, name)!r}")
        if self.blocks < 0:
            raise BadSetting(f"fsha: blocks must be at least 0; got {self.blocks!r}")

    def start(self, view: View, generator: torch.Generator) -> None:
        """Draws the three networks."""
        view.need(self.threat.needs)
        cut = view.cut_shapes[0]
        pilot, inverse = make_pilot(view.input_shape, cut, width=self.width, generator=generator)
        critic = make_critic(cut, width=self.critic_width, blocks=self.blocks, generator=generator)
        self._learners = Learners(
            {"pilot": (pilot, self.lr), "inverse": (inverse, self.lr), "critic": (critic, self.critic_lr)}
        )
        self._view, self._generator, self._rounds, self._seconds = view, generator, 0, 0.0

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        """(N, *cut1): ``gain * d/dz mean D(z)``, by the critic as it is before the last of its steps here."""
        began, nets, z = time.perf_counter(), self._nets, exchange.smashed
        nets.to(z)
        if self._rounds == 0:
            self._first(z)
        hijacking = honest
        for number in range(self.steps):
            images, codes = self._codes(len(z))
            apart = mse_loss(nets["inverse"](codes), images)
            theirs, ours = z.clone().requires_grad_(), codes.detach()
            sent = nets["critic"](theirs).mean()
            if number == self.steps - 1:
                [hijacking] = torch.autograd.grad(sent, theirs, retain_graph=True)
            distance = nets["critic"](ours).mean() - sent
            steep = gradient_penalty(nets["critic"], z, ours, self._generator, slope=self.slope)
            nets.learn((apart, "pilot"), (apart, "inverse"), (distance + self.penalty * steep, "critic"))
        self._rounds += 1
        self._seconds += time.perf_counter() - began
        return self.gain * hijacking

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1], from the last release of each victim."""
        view.need(self.threat.needs)
        if self._learners is None or self._rounds == 0:
            raise NotSupported(
                "fsha returned no gradient in this session, so nothing was hijacked. It must sit in the server's seat "
                "while the session trains (active=...), and the head must be trained, not frozen; against a frozen "
                "head use inverse-network"
            )
        began = time.perf_counter()
        sent = view.releases.last(view.ids).smashed
        like = next(self._nets["inverse"].parameters())
        with torch.no_grad():
            parts = [self._nets["inverse"](part.to(like)) for part in torch.split(sent, CHUNK)]
        return Guess(
            view.ids,
            images=((torch.cat(parts) + 1) / 2).clamp(0, 1).to(sent),
            budget=Budget(
                steps=self._nets.steps,
                aux=len(view.aux),
                seconds=self._seconds + time.perf_counter() - began,
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """The networks, their optimizers, and how far they are."""
        return {"nets": self._nets.state_dict(), "rounds": self._rounds, "seconds": self._seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._nets.load_state_dict(state["nets"])
        self._rounds, self._seconds = int(state["rounds"]), float(state["seconds"])

    @property
    def _nets(self) -> Learners:
        assert self._learners is not None, "the session calls `start` first"
        return self._learners

    def _first(self, z: Tensor) -> None:
        """Learns from the first batch whether codes are cut off at 0; then warms up."""
        nets, pilot = self._nets, self._nets["pilot"]
        assert isinstance(pilot, Pilot)
        if float(z.min()) >= 0:
            pilot.floor.zero_()
        warming = Learners({name: (nets[name], self.warm_lr) for name in ("pilot", "inverse")})
        for _ in range(self.warm_up):
            images, codes = self._codes(len(z))
            apart = mse_loss(warming["inverse"](codes), images)
            warming.learn((apart, "pilot"), (apart, "inverse"))
        nets.steps += warming.steps

    def _codes(self, count: int) -> tuple[Tensor, Tensor]:
        """Auxiliary images (count, *in) in [-1, 1], and their codes (count, *cut) as the defense would send them."""
        aux, like = self._view.aux.inputs, next(self._nets["pilot"].parameters())
        images = 2 * aux[rows_of(len(aux), count, self._generator)].to(like) - 1
        return images, as_released(self._view, self._nets["pilot"](images), self._generator)
