# SPDX-License-Identifier: Apache-2.0
"""Member and query victims lined up so that nothing but what the network learned tells them apart."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitguard.data.rows import Data, Rows
from splitguard.engine.defense import Context
from splitguard.engine.deployed import Deployed
from splitguard.engine.threat import Labels
from splitguard.engine.wire import Exchange, Phase, Releases, entries
from splitguard.seeding import generator

if TYPE_CHECKING:
    from splitguard.engine.session import Session

__all__ = ["Lineup", "send_lineup"]


@dataclass(frozen=True)
class Lineup:
    """As many member victims as query victims, in an order drawn from the seed.

    Attributes:
        ids: (2n,), 0..2n-1: pseudonyms. Row ids would tell, to whoever saw the training, who was in it.
        rows: (2n,), the row id behind each.
        members: (2n,) bool, which of them were trained on; half of them.
    """

    ids: Tensor
    rows: Tensor
    members: Tensor

    @classmethod
    def of(cls, data: Data, seed: int, sent: Tensor | None = None) -> Lineup:
        """All of the fewer kind of victims, and as many of the other kind, drawn from the seed.

        ``sent`` (S,) are ids; members that are not among them, because an alarm ended the session first, say, are
        nobody's victims. None: all were sent.
        """
        draws = generator(seed, "lineup")
        members = data.members if sent is None else data.members[torch.isin(data.members, sent)]
        size = min(len(members), len(data.query))
        chosen = [ids[torch.randperm(len(ids), generator=draws)[:size]] for ids in (members, data.query.ids)]
        order = torch.randperm(2 * size, generator=draws)
        return cls(torch.arange(2 * size), torch.cat(chosen)[order], order < size)

    def found(self, data: Data) -> Rows:
        """The rows themselves, under their pseudonyms."""
        sides = [data.train.of(self.rows[self.members]), data.query.of(self.rows[~self.members])]
        places = torch.cat([torch.nonzero(self.members).flatten(), torch.nonzero(~self.members).flatten()])
        order = places.argsort()
        inputs, labels = (torch.cat([getattr(side, part) for side in sides])[order] for part in ("inputs", "labels"))
        return Rows(inputs, labels, self.ids)


def send_lineup(session: Session) -> Releases:
    """One release of each row of the lineup, through the pipeline as deployed after training, all as queries.

    Member and query victims take the same way: the head in eval mode, the defense's own `Defense.on_send` in the phase
    query, on rows that it never met, its noise from a stream of the session's seed. Labels, where the server is shown
    any, pass through `Defense.on_labels`. What the defense remembers, a ledger or a memory of words, stays as it is:
    this is a measurement, not a release of the deployment.
    """
    rows = session.lineup.found(session.data)
    noise = generator(session.seed, "lineup", "defense")
    defense = copy.deepcopy(session.defense)
    # Ids below 0 are nobody's row, and differ from -1, which stands for all rows of an attacker.
    ctx = Context(-2 - rows.ids, -1, session.training.epochs, -1, Phase.QUERY)
    smashed = Deployed((session.split.head,), defense, noise, torch.device("cpu")).send(rows.inputs, ctx)
    shown = None if session.labels is Labels.CLIENT else defense.on_labels(rows.labels, ctx, noise)
    exchange = Exchange(ctx.epoch, ctx.step, Phase.QUERY, ctx.client, rows.ids, smashed=smashed, labels=shown)
    return entries(exchange, torch.ones(len(rows), dtype=torch.bool), -1)
