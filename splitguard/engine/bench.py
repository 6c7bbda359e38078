# SPDX-License-Identifier: Apache-2.0
"""A test bench for one defense: it is bound to a small deployment, and its hooks can be tried without training."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.cut import Cut, cut_shapes, legal_cuts, split
from splitguard.engine.defense import Batch, Context, Defense, Deployment
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Phase
from splitguard.errors import NotSupported
from splitguard.seeding import derive, drawing, generator

__all__ = ["Bench", "Tried"]

ROWS, CLASSES, SHAPE = 8, 3, (1, 6, 6)
#: Where a defense is tried: who owns the labels, and the number of classes; the first that it does not refuse.
PLACES = ((Labels.SENT, CLASSES), (Labels.CLIENT, CLASSES), (Labels.CLIENT, 2))


def _network(classes: int = CLASSES) -> nn.Module:
    with drawing(derive(0, "bench")):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 4, 3, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(4, 2, 3, padding=1),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                fc=nn.Linear(72, classes),
            )
        )


@functools.cache
def _legal() -> tuple[Cut, ...]:
    return tuple(legal_cuts(_network(), SHAPE))


class Tried(NamedTuple):
    """One hook: its name, what it was given, and what it handed back, row for row."""

    hook: str
    given: Tensor
    got: Tensor


class Bench:
    """One fresh defense, placed, wrapped and bound as `train` does it, on a network of two convolutions.

    The same arguments give the same bits. Rows are images (1, 6, 6); the cut is ``conv1``, before the defense moves it.

    Args:
        defense: a fresh instance.
        labels: who owns them; ``client`` puts a second cut at ``flatten``. None: the client, who sends them; where the
            defense refuses that, the client, who keeps them, with three classes or two.
        head_frozen, mixing: as in `Deployment`; a defense that refuses a trained head gets a frozen one.
        releases: T of a training row; a query row is sent once.
        mode: vanilla, or u-shaped with ``labels`` of the client, unless given.
        bind: without it the defense is placed and wrapped only, as when a session is loaded.

    Attributes:
        batch: 8 rows, their ids and labels; smashed: (8, *cut1), what the head makes of them.
        legal: the cuts of the network; network: as the defense wrapped it; deployment: what it is bound to.
    """

    def __init__(
        self,
        defense: Defense,
        *,
        labels: Labels | None = None,
        head_frozen: bool = False,
        mixing: tuple[str, ...] = (),
        releases: int = 3,
        mode: Mode | None = None,
        bind: bool = True,
    ) -> None:
        self.defense = defense
        self.legal = _legal()
        refused: NotSupported | None = None
        places = PLACES if labels is None else ((labels, CLASSES),)
        # With a trained head first; a defense that refuses that is tried with a frozen one.
        for frozen, (owner, classes) in itertools.product(sorted({head_frozen, True}), places):
            self._prepare(owner, classes, head_frozen=frozen, mixing=mixing, releases=releases, mode=mode)
            try:
                if bind:
                    defense.bind(self.deployment)
                break
            except NotSupported as error:
                refused = refused or error
        else:
            assert refused is not None
            raise refused
        self.smashed: Tensor = self.network.head(self.batch.inputs).detach()
        self._next = 1_000

    def _prepare(
        self,
        labels: Labels,
        classes: int,
        *,
        head_frozen: bool,
        mixing: tuple[str, ...],
        releases: int,
        mode: Mode | None,
    ) -> None:
        """Network, rows and deployment, before the defense is bound."""
        defense = self.defense
        cuts = defense.place(("conv1", "flatten") if labels is Labels.CLIENT else ("conv1",), self.legal)
        self.network = defense.wrap(split(_network(classes), cuts), self.gen(0))
        rows = [self._rows(part, classes) for part in range(2)]
        self.batch = Batch(rows[0].inputs, rows[0].ids, rows[0].labels)
        self.deployment = Deployment(
            mode=mode or (Mode.U_SHAPED if labels is Labels.CLIENT else Mode.VANILLA),
            labels=labels,
            cuts=cuts,
            input_shape=SHAPE,
            cut_shapes=tuple(cut_shapes(self.network, SHAPE)),
            classes=classes,
            batch_size=ROWS,
            epochs=releases,
            clients=1,
            releases={Phase.TRAINING: releases, Phase.EVALUATION: 1, Phase.QUERY: 1},
            aux=rows[1],
            head=self.network.head.eval(),
            head_frozen=head_frozen,
            mixing=mixing,
        )

    def _rows(self, part: int, classes: int) -> Rows:
        gen = self.gen(100 + part)
        ids = torch.arange(part * ROWS, (part + 1) * ROWS)
        return Rows(torch.rand(ROWS, *SHAPE, generator=gen), ids % classes, ids)

    def gen(self, stream: int = 1) -> torch.Generator:
        """A fresh generator; the same one for the same ``stream``."""
        return generator(0, "bench", stream)

    def context(self, ids: Tensor, phase: Phase = Phase.TRAINING) -> Context:
        """What hooks are told of rows with these ids."""
        return Context(ids, client=0, epoch=0, step=0, phase=phase)

    def send(
        self, smashed: Tensor, ids: Tensor | None = None, *, phase: Phase = Phase.TRAINING, stream: int = 1
    ) -> Tensor:
        """`on_send`, by default for rows that were never sent before."""
        if ids is None:
            ids = torch.arange(self._next, self._next + len(smashed))
            self._next += len(smashed)
        return self.defense.on_send(smashed, self.context(ids, phase), self.gen(stream))

    def hooks(self, smashed: Tensor) -> list[Tried]:
        """Every hook that hands rows back, each drawing from a generator of its own; ``smashed`` of up to 8 rows."""
        n, defense = len(smashed), self.defense
        ctx = self.context(self.batch.ids[:n])
        labels = torch.arange(n) % self.deployment.classes
        tried = {
            "on_send": self.send(smashed),
            "mean_release": defense.mean_release(smashed),
            "released_like": defense.released_like(smashed, self.gen()),
            "on_return": defense.on_return(smashed, labels, ctx, self.gen()),
        }
        out = [Tried(hook, smashed, got) for hook, got in tried.items()]
        flat = smashed.flatten(1)
        out.append(Tried("restored", flat, defense.restored(flat, flat, labels)))
        return [*out, Tried("on_labels", labels, defense.on_labels(labels, ctx, self.gen()))]
