# SPDX-License-Identifier: Apache-2.0
"""The schedules: whose batches make a round, and how one round goes in split and in unsplit training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from splitguard.engine.defense import Batch, Context, Defense
from splitguard.engine.links import Link, pooled
from splitguard.engine.observers import Observer
from splitguard.engine.parties import Client, Server, Surroundings
from splitguard.engine.stored import Stored
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Exchange

__all__ = ["Parcel", "SplitRound", "joint_round", "rounds"]

Positions = Tensor


@dataclass
class Parcel:
    """One client's part of a round: its batch, the labels to train with (M,), and what its hooks are told.

    ``probing``: the labels are a probe, and the client's layers do not train on this batch.
    """

    client: Client
    batch: Batch
    labels: Tensor
    ctx: Context
    probing: bool = False


def rounds(mode: Mode, turn: str, batches: Sequence[Sequence[Positions]]) -> Iterator[list[tuple[int, Positions]]]:
    """The rounds of one epoch, each a list of (client, positions of its rows).

    SplitFed: in each round all clients that have rows left, in parallel. Otherwise one client a round, in rotation,
    batch by batch or epoch by epoch; a client that runs out is passed over.
    """
    if mode is Mode.SPLITFED:
        for number in range(max(map(len, batches), default=0)):
            yield [(c, own[number]) for c, own in enumerate(batches) if number < len(own)]
    elif turn == "epoch":
        for c, own in enumerate(batches):
            yield from ([(c, b)] for b in own)
    else:
        for number in range(max(map(len, batches), default=0)):
            yield from ([(c, own[number])] for c, own in enumerate(batches) if number < len(own))


class SplitRound:
    """One round over the wire, for every split mode: with one client it is vanilla or u-shaped, with several splitfed.

    The body steps on the pooled mean loss; each head gets the gradient of its own batch's mean: pooled times N / n_i.

    Args:
        server: owns the body.
        link: carries every message.
        labels: who owns the labels.
        defense: its hooks are called here and in `Client.send`.
        generator: the defense's randomness.
        active: an attack in the server's seat, or None.
        head_frozen: no cut gradient is computed.
        stored: rows are sent in the first epoch only, and kept here; None where they are sent in every epoch.
    """

    def __init__(
        self,
        server: Server,
        link: Link,
        labels: Labels,
        *,
        defense: Defense,
        generator: torch.Generator,
        active: Observer | None = None,
        head_frozen: bool = False,
        stored: Stored | None = None,
    ) -> None:
        self._server, self._link, self._owner = server, link, labels
        self._defense, self._generator, self._active = defense, generator, active
        self._head_frozen = head_frozen
        self.stored = stored

    def run(self, parcels: list[Parcel], draws: Sequence[int]) -> tuple[Tensor, list[Exchange]]:
        """Plays the round.

        Args:
            parcels: the clients that take part.
            draws: for each, the seed that its random layers draw from; the body draws from the first.

        Returns:
            the mean loss over the rows of all parcels, and one exchange for each parcel.
        """
        link, server = self._link, self._server
        exchanges = [self._send(p, d) for p, d in zip(parcels, draws, strict=True)]
        sizes = [len(p.labels) for p in parcels]
        need_grad = not self._head_frozen
        out = server.forward([e.smashed for e in exchanges], draws[0], need_grad=need_grad)
        if self._owner is Labels.CLIENT:
            loss, exchanges, returned = self._through_tails(parcels, exchanges, out, draws)
            grad = server.backward(returned)
        else:
            labels = [e.labels for e in exchanges if e.labels is not None]
            loss = server.loss(pooled(labels), draws[0])
            grad = server.backward()
        grads = [None] * len(parcels) if grad is None else self._cut_grads(grad, sizes, exchanges, parcels)
        for number, (parcel, cut_grad) in enumerate(zip(parcels, grads, strict=True)):
            received = None if cut_grad is None else link.down(cut_grad)
            exchanges[number] = replace(exchanges[number], cut_grad=received)
            parcel.client.receive(received, train=not parcel.probing)
        return loss, exchanges

    def _send(self, parcel: Parcel, draws: int) -> Exchange:
        """The client's message: smashed data, row ids, and labels where they are sent."""
        ctx = parcel.ctx
        if self.stored is not None and ctx.epoch > 0:
            return self._again(parcel)
        shown = self._defense.on_labels(parcel.labels, ctx, self._generator)
        # A penalty on true labels would carry them into the head, and from there into everything that is sent.
        batch = parcel.batch if parcel.batch.labels is None else replace(parcel.batch, labels=shown)
        smashed = parcel.client.send(batch, ctx, self._defense, self._generator, draws)
        probe = self._defense.probe(shown, ctx, self._generator)
        parcel.probing = probe is not None
        parcel.labels = shown if probe is None else probe
        labels = None
        if self._owner is Labels.SENT:
            labels = self._link.up(parcel.labels)
        elif self._owner is Labels.SERVER:
            labels = parcel.labels
        self._link.up(ctx.ids)
        received = self._link.up(smashed)
        if self.stored is not None:
            self.stored.put(ctx.ids, received, labels if self._owner is Labels.SENT else None)
        return Exchange(ctx.epoch, ctx.step, ctx.phase, ctx.client, ctx.ids, smashed=received, labels=labels)

    def _again(self, parcel: Parcel) -> Exchange:
        """Rows that were sent before: the server takes them from what it kept; only their ids cross."""
        assert self.stored is not None
        ctx = parcel.ctx
        smashed, labels = self.stored.get(ctx.ids)
        parcel.client.pass_over(smashed)
        if labels is None:
            parcel.labels = self._defense.on_labels(parcel.labels, ctx, self._generator)
            labels = parcel.labels if self._owner is Labels.SERVER else None
        parcel.labels = parcel.labels if labels is None else labels
        self._link.up(ctx.ids)
        return Exchange(
            ctx.epoch, ctx.step, ctx.phase, ctx.client, ctx.ids, smashed=smashed, labels=labels, repeated=True
        )

    def _through_tails(
        self, parcels: list[Parcel], exchanges: list[Exchange], out: Tensor, draws: Sequence[int]
    ) -> tuple[Tensor, list[Exchange], Tensor]:
        """U-shaped: features down, loss at each tail, gradients up, scaled to the pooled mean."""
        total = sum(len(p.labels) for p in parcels)
        losses, returned, done = [], [], []
        for parcel, exchange, part, seed in zip(
            parcels, exchanges, out.detach().split([len(p.labels) for p in parcels]), draws, strict=True
        ):
            honest = self._active.forward(exchange, part) if self._active else part
            features = self._link.down(part if honest is None else honest)
            loss, grad, _ = parcel.client.loss(features, parcel.labels, seed)
            size = len(parcel.labels)
            grad = self._link.up(self._returned(grad, parcel))
            returned.append(grad if len(parcels) == 1 else grad * (size / total))
            losses.append(loss * (size / total))
            done.append(replace(exchange, features=features.detach(), returned_grad=grad))
        return sum(losses[1:], losses[0]), done, pooled(returned)

    def _returned(self, grad: Tensor, parcel: Parcel) -> Tensor:
        """What the label owner hands back for a gradient of the batch mean; the same bits where nothing was changed."""
        if not self._defense.overrides("on_return"):
            return grad
        size = len(parcel.labels)
        per_sample = grad * size
        shown = self._defense.on_return(per_sample, parcel.labels, parcel.ctx, self._generator)
        return grad if torch.equal(shown, per_sample) else shown / size

    def _cut_grads(
        self, grad: Tensor, sizes: list[int], exchanges: list[Exchange], parcels: list[Parcel]
    ) -> list[Tensor | None]:
        """What the server returns to each client: its own batch's mean gradient, after its defense or its attack."""
        total = sum(sizes)
        out: list[Tensor | None] = []
        for part, size, exchange, parcel in zip(grad.split(sizes), sizes, exchanges, parcels, strict=True):
            own = part if len(sizes) == 1 else part * (total / size)
            if self._owner is Labels.SERVER:
                own = self._returned(own, parcel)
            if self._active is not None:
                own = self._active.backward(exchange, own)
            out.append(own)
        return out


def joint_round(parcel: Parcel, server: Server, around: Surroundings, draws: int) -> Tensor:
    """The centralized baseline: the same layers in one graph, each with its own optimizer; the mean loss."""
    client = parcel.client
    stages = [s for s in (client.head, server.body, client.tail) if s]
    for stage in stages:
        stage.zero()
    with around.forward(draws):
        out = parcel.batch.inputs
        for stage in stages:
            out = stage.module(out)
        loss = cross_entropy(out, parcel.labels)
    loss.backward()
    for stage in stages:
        stage.step()
    return loss.detach()
