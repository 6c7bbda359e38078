# SPDX-License-Identifier: Apache-2.0
"""The only training loop: epochs, rounds, averaging, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from splitguard.data.augment import augment
from splitguard.data.rows import Data, Rows
from splitguard.engine.checkpoint import load_checkpoint, save_checkpoint
from splitguard.engine.defense import Alarm, Batch, Context, Defense
from splitguard.engine.deployed import Deployed, Utility
from splitguard.engine.fed import FedServer
from splitguard.engine.links import Link
from splitguard.engine.modes import Parcel, SplitRound, joint_round, rounds
from splitguard.engine.observers import Observer
from splitguard.engine.parties import Client, Server, Surroundings
from splitguard.engine.schedule import batches
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.training import Training
from splitguard.engine.transcript import Transcript
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import Diverged
from splitguard.seeding import derive, generator

__all__ = ["Loop", "Progress"]

#: Rounds between two looks at the losses; each look waits for the device.
CHECK_EVERY = 20


@dataclass(frozen=True)
class Progress:
    """Where a training stands: rounds done of about ``total``, epoch (from 0), the last loss, rounds a second."""

    done: int
    total: int
    epoch: int
    loss: float
    rate: float


@dataclass
class Loop:
    """One training, from wherever its checkpoint stands to the end.

    Attributes:
        data, mode, labels, training, seed: of the session.
        clients, server, fed: the parties; ``fed`` is None unless the heads are averaged.
        link, defense, noise: the wire, the defense and its randomness.
        transcript: what is recorded.
        round: how one round over the wire goes.
        observers: attacks beside the session.
        deployed: the pipeline, for evaluation and queries.
        fingerprint: a checkpoint of anything else is refused.
    """

    data: Data
    mode: Mode
    labels: Labels
    training: Training
    seed: int
    clients: Sequence[Client]
    server: Server
    fed: FedServer | None
    link: Link
    defense: Defense
    noise: torch.Generator
    transcript: Transcript
    round: SplitRound
    around: Surroundings
    observers: Sequence[Observer]
    deployed: Deployed
    fingerprint: str

    def __post_init__(self) -> None:
        self.step = 0
        self.epoch = 0
        self.done_in_epoch = 0
        self.history: list[dict[str, float | int | None]] = []
        self.alarms: list[tuple[int, Alarm]] = []
        self.stopped = False
        self.seconds = self.earlier = 0.0  # of the loop in all, and before it was interrupted
        self.holder = -1
        self.losses: list[Tensor] = []

    def run(self, checkpoint: Path | None, progress: Callable[[Progress], None] | None) -> None:
        """Trains to the end.

        Raises:
            Diverged: as soon as a loss is found not to be finite.
            BadSetting: if the checkpoint belongs to another session.
        """
        if self.training.noise == "os":
            # Behind a checkpoint the ledger forgets what was sent since, and the noise repeats itself.
            checkpoint = None
        if checkpoint is not None and checkpoint.exists():
            load_checkpoint(checkpoint, self)
        self.earlier = self.seconds
        began, first = time.perf_counter() - self.seconds, self.step
        total = self.training.epochs * self._rounds_an_epoch()
        while self.epoch < self.training.epochs and not self.stopped:
            if self.fed is not None and self.done_in_epoch == 0:
                self.fed.hand_out(self.epoch)
            played = list(rounds(self.mode, self.training.turn, self._batches()))
            for number, sendings in enumerate(played):
                if number < self.done_in_epoch:
                    continue  # played before the checkpoint
                self._play(sendings)
                self.done_in_epoch += 1
                self.seconds = time.perf_counter() - began
                last = self.stopped or number + 1 == len(played)
                if progress is not None and (last or self.step % 4 == 0):
                    rate = (self.step - first) / max(time.perf_counter() - began, 1e-9)
                    progress(Progress(self.step, total, self.epoch, float(self.losses[-1]), rate))
                every = self.training.checkpoint_every
                if checkpoint is not None and every and self.done_in_epoch % every == 0:
                    save_checkpoint(checkpoint, self)
                if self.stopped:
                    break
            self._end_epoch()
            self.seconds = time.perf_counter() - began
            if checkpoint is not None:
                save_checkpoint(checkpoint, self)

    def _rounds_an_epoch(self) -> int:
        batches = [math.ceil(len(c.rows) / self.training.batch_size) for c in self.clients]
        return max(batches) if self.mode is Mode.SPLITFED else sum(batches)

    def _batches(self) -> list[Sequence[Tensor]]:
        """For each client this epoch's batches as positions among its rows, drawn from the seed and the epoch."""
        return batches(
            [len(client.rows) for client in self.clients],
            batch_size=self.training.batch_size,
            defense=self.defense,
            seed=self.seed,
            epoch=self.epoch,
        )

    def _play(self, sendings: list[tuple[int, Tensor]]) -> None:
        """One round: over the wire, or joint for the baseline; then records, observers, averaging."""
        parcels = [self._parcel(client, positions) for client, positions in sendings]
        draws = [derive(self.seed, "draws", self.step, p.client.number) for p in parcels]
        if self.mode is Mode.CENTRALIZED:
            self.losses.append(joint_round(parcels[0], self.server, self.around, draws[0]))
        else:
            self._hand_over(parcels[0].client)
            before = [self._layers_if_recorded(p) for p in parcels]
            loss, exchanges = self.round.run(parcels, draws)
            self.losses.append(loss)
            for exchange, layers in zip(exchanges, before, strict=True):
                self._record(exchange, layers)
            for observer in self.observers:
                observer.notify(exchanges, self.server.body.module)
        self.step += 1
        if self.step % CHECK_EVERY == 0:
            self._check_finite()
        if self.fed is not None:
            for parcel in parcels:
                if not parcel.probing:
                    self.fed.trained[parcel.client.number].append(parcel.batch.ids)
            every = self.training.average_every
            if isinstance(every, int) and self.step % every == 0:
                self.fed.collect(self.epoch, self.step)
                self.fed.hand_out(self.epoch)

    def _parcel(self, number: int, positions: Tensor) -> Parcel:
        client = self.clients[number]
        rows = client.rows[positions]
        inputs = rows.inputs
        if self.training.augment:
            drawn = generator(self.seed, "augment", self.step, number)
            members = torch.isin(rows.ids, self.data.members)
            inputs = augment(inputs, self.training.augment, drawn, keep=members)
        inputs, labels = inputs.to(self.around.device), rows.labels.to(self.around.device)
        shown = None if self.labels is Labels.SERVER else labels
        ctx = Context(rows.ids, number, self.epoch, self.step, Phase.TRAINING)
        return Parcel(client, Batch(inputs, rows.ids, shown), labels, ctx)

    def _hand_over(self, client: Client) -> None:
        """Counts head, unless it is frozen, and tail going from the last client to this one, if they are handed on."""
        if self.fed is None and self.holder not in (-1, client.number):
            for stage in (client.head if self.training.head == "trained" else None, client.tail):
                if stage is not None:
                    self.link.count("handover", stage.handed_on())
        self.holder = client.number

    def _layers_if_recorded(self, parcel: Parcel) -> dict[str, Tensor] | None:
        """A copy of the client's layers before the step, if this batch holds a victim."""
        recorded = bool(torch.isin(parcel.batch.ids, self.transcript.keep.victims).any())
        return parcel.client.layers() if recorded else None

    def _record(self, exchange: Exchange, layers: dict[str, Tensor] | None) -> None:
        fixed = self.training.head == "frozen"
        owner = exchange.client if self.fed is not None and not fixed else -1
        made_by = (owner, 0 if fixed else self.step)
        # Of a frozen head one snapshot stands for all; a tail goes on learning, and only its end is kept.
        kept = {name: value for name, value in (layers or {}).items() if not fixed or name.startswith("head.")}
        self.transcript.append(exchange, made_by=made_by, head=lambda: kept)
        alarm = self.defense.alarm(exchange)
        if alarm is not None:
            self.alarms.append((self.step, alarm))
            self.stopped = self.stopped or alarm.stop

    def _end_epoch(self) -> None:
        self._check_finite()
        if self.fed is not None:
            self.fed.collect(self.epoch, self.step)
            self.transcript.updates.end([])
        stages = {id(s): s for c in self.clients for s in (c.head, c.tail) if s is not None}
        for stage in [*stages.values(), self.server.body]:
            stage.end_epoch()
        last = self.epoch + 1 == self.training.epochs or self.stopped
        utility = Utility()
        if last or self.training.evaluate == "epoch":
            utility = self.deployed.utility(self.data.test, ctx=self._context(Phase.EVALUATION))
        loss = torch.stack(self.losses).mean().item() if self.losses else math.nan
        self.history.append({"epoch": self.epoch, "loss": loss, **utility.as_dict()})
        self.losses.clear()
        self.epoch += 1
        self.done_in_epoch = 0

    def _context(self, phase: Phase) -> Context:
        """What hooks are told outside a training round; the ids are filled in with the rows."""
        return Context(torch.empty(0, dtype=torch.int64), -1, self.epoch, self.step, phase)

    def query(self, rows: Rows) -> None:
        """Sends query victims once through the deployed pipeline and records what the server receives."""
        if len(rows) and self.mode is not Mode.CENTRALIZED:
            ctx = replace(self._context(Phase.QUERY), ids=rows.ids)
            smashed = self.deployed.send(rows.inputs, ctx)
            exchange = Exchange(self.epoch, self.step, Phase.QUERY, -1, rows.ids, smashed=smashed)
            self.transcript.append(exchange, made_by=(-1, -1), head=self.clients[0].layers)

    def _check_finite(self) -> None:
        """Looks at the latest losses; since it last did, no more than `CHECK_EVERY` came."""
        if self.losses and not bool(torch.isfinite(torch.stack(self.losses[-CHECK_EVERY:])).all()):
            raise Diverged(
                f"the loss was not a finite number in epoch {self.epoch}, by step {self.step}. "
                "Try a smaller learning rate; a defense with a large penalty weight can also cause it."
            )
