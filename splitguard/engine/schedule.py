# SPDX-License-Identifier: Apache-2.0
"""Which rows are sent at which step: drawn from the seed, so that it need not be recorded to be known afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitguard.engine.defense import Defense
from splitguard.engine.modes import rounds
from splitguard.engine.threat import Mode
from splitguard.seeding import generator

if TYPE_CHECKING:
    from splitguard.engine.session import Session

__all__ = ["batches", "sendings"]


def batches(
    sizes: Sequence[int], *, batch_size: int, defense: Defense, seed: int, epoch: int
) -> list[Sequence[Tensor]]:
    """For each client its batches of one epoch, as positions among its rows.

    Args:
        sizes: how many rows each client has.
        batch_size: of a batch, the last one of an epoch excepted.
        defense: it may bring batches of its own.
        seed: of the session.
        epoch: counted from 0.
    """
    out: list[Sequence[Tensor]] = []
    for number, size in enumerate(sizes):
        order = generator(seed, "order", epoch, number)
        own = defense.sampler(size, batch_size, order)
        out.append(torch.randperm(size, generator=order).split(batch_size) if own is None else own)
    return out


def sendings(session: Session) -> Iterator[tuple[int, Tensor]]:
    """(step, ids (N,)) of every batch that a client sent in training, in order, up to where an alarm ended it."""
    if session.mode is Mode.CENTRALIZED:
        return
    ids, training, step = session.data.clients, session.training, 0
    last = next((number for number, alarm in session.alarms if alarm.stop), None)
    for epoch in range(training.epochs):
        drawn = batches(
            [len(own) for own in ids],
            batch_size=training.batch_size,
            defense=session.defense,
            seed=session.seed,
            epoch=epoch,
        )
        for together in rounds(session.mode, training.turn, drawn):
            for client, positions in together:
                yield step, ids[client][positions]
            if step == last:
                return
            step += 1
