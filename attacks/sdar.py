# SPDX-License-Identifier: Apache-2.0
"""Inputs, or labels, by way of a simulated client whose smashed data cannot be told from the true one's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from splitguard.api import ATTACKS, BadSetting, Budget, Exchange, Goal, Guess, Party, Sees, Threat, View
from splitguard.building.class_decoder import ClassDecoder
from splitguard.building.critics import looks_like, told_apart
from splitguard.building.learners import Learners
from splitguard.building.simulate import as_stated
from splitguard.building.simulation import Seen, Simulation

#: Victims decoded at once.
CHUNK = 256
NEEDS = Sees.SMASHED | Sees.BODY | Sees.AUX | Sees.ARCHITECTURE
PAPER = "Zhu et al., Passive inference attacks on split learning via adversarial regularization, NDSS 2025"


@ATTACKS.add("sdar")
@dataclass(kw_only=True)
class Sdar(Simulation):
    """Decodes smashed data with a decoder d that is trained on what a simulated client makes of auxiliary images.

        d:            min  mean (d(e(x), y) - x)^2 + l2 BCE(D2(d(z, y_z), y_z), 1),        x_hat = d(z, y_z)
        critic D2:    min  BCE(D2(x, y), 1) + BCE(D2(d(z, y_z), y_z), 0)

    with the client's batch z, its labels y_z, and the simulated head e of `Simulation`:

        e, tail h:    min  CE(h(g(e(x))), y) + p(e(x)) + l1 BCE(D1(e(x), y), 1)        (h without the last term)
        critic D1:    min  BCE(D1(z, y_z), 1) + BCE(D1(e(x), y), 0)

    g is the live body. In u-shaped nobody is told labels, h is one linear layer of the attacker's own, and a share of
    the y is drawn anew. The defense's fresh draws, the labels it states and its penalty p are in the simulation, unless
    the attacker is not adaptive; where there is a p, a second client without it is simulated too, and x_hat is the
    mean of both. A victim is decoded from its last release; a query victim's label is what the body makes of it.

    Args:
        steps: steps of every network for each exchange.
        first_step: the training round with which it begins.
        finish: steps after the session, with the final body and the rows that crossed last.
        keep: how many of these are kept.
        l1: weight of D1 in e's loss; 0 leaves D1 out. In the paper's ablation (CIFAR-10, level 7) the error was then
            .061 in place of .023.
        l2: weight of D2 in d's loss; 0 leaves D2 out.
        flip: share of auxiliary labels drawn anew, in u-shaped.
        conditional: whether d, D1 and D2 are told labels, where the server is given them.
        lr: Adam's step size for e and h.
        decoder_lr: for d.
        critic_lr: for D1 and D2.
        width: channels of d.
        blocks: its residual blocks.
        critic_width: channels of D1 and D2.
        batch_size: auxiliary rows a step.

    Source: Zhu, Luo, Wu, Jiang, Xiao, Ooi, Passive inference attacks on split learning via adversarial regularization,
    NDSS 2025. Differences: the architectures of d, D1 and D2, which there are set for ResNet-20 by level; d begins at
    the mean image of the class, where there the label is embedded; D1 and D2 learn at a rate of their own, where there
    theirs are lr times l1 and decoder_lr times l2; h need not have the tail's architecture; steps after the session.
    There decoder_lr is 5e-4, over 20,000 rounds; here it must do in a few hundred.
    """

    l1: float = 0.02
    critic_lr: float = 2e-4
    l2: float = 1e-5
    conditional: bool = True
    decoder_lr: float = 1e-3
    width: int = 32
    blocks: int = 1

    goal: ClassVar[Goal] = Goal.INPUTS
    version: ClassVar[int] = 2
    paper: ClassVar[str] = PAPER
    threat: ClassVar[Threat] = Threat(NEEDS, (Party.SERVER,), uses=Sees.LABELS)
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "steps": 2,
            "finish": 40,
            "batch_size": 16,
            "l2": 0.0,
            "lr": 5e-3,
            "decoder_lr": 3e-3,
            "width": 8,
            "critic_width": 16,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("l2", 0), ("width", 1), ("blocks", 0)):
            if getattr(self, name) < least:
                raise BadSetting(f"{self.name}: {name} must be at least {least}; got {getattr(self, name)!r}")
        if not self.decoder_lr > 0:
            raise BadSetting(f"{self.name}: decoder_lr must be positive; got {self.decoder_lr!r}")

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in) in [0, 1]."""
        view.need(self.threat.needs)
        began, rows, body = time.perf_counter(), view.releases.last(view.ids), view.body()
        clients, sent, told = self._finished(body, view, generator), rows.smashed, None
        with torch.no_grad():
            if self._told:
                told = body(sent.clone()).argmax(1) if rows.labels is None else rows.labels
            parts = [
                (sent[part], None if told is None else told[part]) for part in torch.arange(len(sent)).split(CHUNK)
            ]
            decoders = [nets["decoder"].eval() for nets in clients]
            found = [torch.cat([decoder(*part) for part in parts]).clamp(0, 1) for decoder in decoders]
        seconds = self._seconds + time.perf_counter() - began
        budget = Budget(steps=sum(nets.steps for nets in clients), aux=len(view.aux), seconds=seconds)
        return Guess(view.ids, images=torch.stack(found).mean(0), budget=budget)

    def _labels_told(self, view: View) -> int:
        return view.classes if self.conditional and view.sees(Sees.LABELS) else 0

    def _more(self, view: View, generator: torch.Generator) -> dict[str, tuple[nn.Module, float]]:
        cut, aux = view.cut_shapes[0], replace(view.aux, labels=as_stated(view, view.aux.labels, generator))
        decoder = ClassDecoder(cut, aux, view.classes, width=self.width, blocks=self.blocks, generator=generator)
        out: dict[str, tuple[nn.Module, float]] = {"decoder": (decoder, self.decoder_lr)}
        if self.l2:
            out["judge"] = self._critic(view.input_shape, generator), self.critic_lr
        return out

    def _use(self, nets: Learners, seen: Seen) -> None:
        """One step of d and D2."""
        decoder = nets["decoder"]
        assert isinstance(decoder, ClassDecoder)
        decoder.watch(seen.sent)
        loss, losses = mse_loss(decoder(seen.made, seen.labels), seen.images), []
        if "judge" in nets:
            fake = nets["judge"](decoder(seen.sent, seen.told), seen.told)
            loss = loss + self.l2 * looks_like(fake, True)
            losses.append((told_apart(nets["judge"](seen.images, seen.labels), fake), "judge"))
        nets.learn((loss, "decoder"), *losses)


@ATTACKS.add("sdar-labels")
@dataclass(kw_only=True)
class SdarLabels(Simulation):
    """Labels in u-shaped: the class that the body and a simulated tail make of smashed data, ``argmax h(g(z))``.

    The simulation is that of `sdar`. Body and head move together, and an old release means little to a new body: each
    row is judged when it is sent, with the body and the tail of that moment, and the last judgement counts. The rows
    that are kept, and those sent only before ``first_step``, are judged in the end, by the final body and the finished
    tail. What crosses may be matched with the classes exchanged, above all early in a session: where the attacker knows
    the labels of a few rows, it exchanges the classes so as to make these most likely.

    Args:
        steps, first_step, finish, keep, l1, flip, lr, critic_lr, critic_width, batch_size: as of `sdar`.

    Source: as of `sdar`. Differences: as there, the exchange of classes, and D1, which weighs more and learns faster,
    as h has nothing else that ties it to the client's tail.
    """

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(NEEDS | Sees.FEATURES, (Party.SERVER,), uses=Sees.KNOWN)
    version: ClassVar[int] = 2
    paper: ClassVar[str] = PAPER
    quick: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"steps": 4, "finish": 0, "batch_size": 32, "flip": 0.0, "lr": 2e-3, "critic_width": 16}
    )

    def start(self, view: View, generator: torch.Generator) -> None:
        """Draws the networks; nothing is judged yet."""
        super().start(view, generator)
        self._scores: dict[int, Tensor] = {}

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Learns from one exchange, and judges its rows."""
        super().observe(exchange, view, generator)
        if self._steps:
            self._scores |= _judged(exchange.ids, exchange.smashed, view.body().eval(), self._clients)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """``labels`` (N,), and ``scores`` (N, K): log probabilities."""
        view.need(self.threat.needs)
        began, body, judged = time.perf_counter(), view.body(), dict(self._scores)
        clients = self._finished(body, view, generator)
        if len(self._recent):
            ids, last = self._recent.last()
            judged |= _judged(ids, last.to(view.aux.inputs.device), body, clients)
        asked = torch.cat([view.ids, view.known.ids]) if view.sees(Sees.KNOWN) else view.ids
        late = torch.tensor([i for i in asked.tolist() if i not in judged], dtype=torch.int64)
        if len(late):  # sent before the simulation began, and never since
            judged |= _judged(late, view.context.last(late).smashed, body, clients)
        scores = torch.stack([judged[int(i)] for i in view.ids])
        if view.sees(Sees.KNOWN) and len(view.known.ids):
            told = torch.stack([judged[int(i)] for i in view.known.ids])
            scores = scores[:, _exchanged(told, view.known.labels)]
        seconds = self._seconds + time.perf_counter() - began
        budget = Budget(steps=sum(nets.steps for nets in clients), aux=len(view.aux), seconds=seconds)
        return Guess(view.ids, labels=scores.argmax(1), scores=scores, budget=budget)

    def state_dict(self) -> dict[str, Any]:
        """As of the simulation, with the judgements."""
        return {**super().state_dict(), "ids": list(self._scores), "scores": list(self._scores.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(state)
        self._scores = dict(zip(state["ids"], state["scores"], strict=True))

    def _use(self, nets: Learners, seen: Seen) -> None:
        """Nothing: the judgements are made when the step is done."""


def _judged(ids: Tensor, sent: Tensor, body: nn.Module, clients: Sequence[Learners]) -> dict[int, Tensor]:
    """Log probabilities (K,) of each row, the mean of what the clients' tails say."""
    with torch.no_grad():
        features = body(sent.clone())
        scores = torch.stack([nets["tail"](features).log_softmax(1) for nets in clients]).mean(0).cpu()
    return dict(zip(ids.tolist(), scores, strict=True))


def _exchanged(scores: Tensor, labels: Tensor) -> Tensor:
    """(K,): which column of the scores (A, K) stands for each class, so that the labels (A,) are likeliest in sum."""
    sums = scores.new_zeros(scores.shape[1], scores.shape[1]).index_add(0, labels.to(scores.device), scores)
    return torch.from_numpy(linear_sum_assignment(sums.numpy(), maximize=True)[1])
