# SPDX-License-Identifier: Apache-2.0
"""Whose rows an attack is scored on, and what of theirs the session recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from splitguard.engine.threat import Goal, Party
from splitguard.engine.view import Known
from splitguard.engine.wire import Releases

if TYPE_CHECKING:
    from splitguard.engine.session import Session

__all__ = ["Victims", "victims_of"]


class Victims(NamedTuple):
    """The victims of one attack.

    Attributes:
        ids: (N,).
        releases: their rows on the wire, for an attacking client its own alone; None where none were kept.
        context: all rows of one client for one epoch, where they were kept.
        known: rows of the context whose labels the attacker knows; they are no victims.
    """

    ids: Tensor
    releases: Releases | None
    context: Releases | None
    known: Known | None


def victims_of(session: Session, goal: Goal, party: Party, phase: str, known: int) -> Victims:
    """The victims of an attack by ``party``, all goals but membership.

    For labels: all rows of one client but those the attacker knows, ``known`` a class, where a context was kept; for
    the fed server, the rows that it was sent updates of. Else member or query victims, for a client its own. A member
    that was never sent, because an alarm ended the session first, say, is nobody's victim.
    """
    releases, context = session.transcript.releases(phase), session.transcript.releases("context")
    ids = session.data.members if phase == "training" else session.data.query.ids
    if goal is Goal.LABELS and party is Party.FED_SERVER:
        return Victims(session.transcript.updates.rows(), None, context, None)
    if goal is Goal.LABELS and context is not None:
        rows = context.ids.unique()
        told = session.known(rows, known)
        ids = rows[~torch.isin(rows, told.ids)]
        return Victims(ids, context.where(torch.isin(context.ids, ids)), context, told)
    if party is Party.CLIENT:
        own = session.data.clients[0]
        ids = ids[torch.isin(ids, own)]
        releases = None if releases is None else releases.where(torch.isin(releases.ids, own))
    if releases is not None:
        ids = ids[torch.isin(ids, releases.ids)]
    return Victims(ids, releases, context, None)
