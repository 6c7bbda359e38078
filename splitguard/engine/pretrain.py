# SPDX-License-Identifier: Apache-2.0
"""Pre-training on auxiliary rows, for a head that is then public and frozen."""

from __future__ import annotations

import torch

from splitguard.data.rows import Rows
from splitguard.engine.cut import SplitModel
from splitguard.engine.defense import Batch, Context
from splitguard.engine.modes import Parcel, joint_round
from splitguard.engine.parties import Client, Server, Stage, Surroundings
from splitguard.engine.training import Training
from splitguard.engine.wire import Phase
from splitguard.seeding import derive, generator

__all__ = ["pretrain"]


def pretrain(network: SplitModel, aux: Rows, training: Training, around: Surroundings, seed: int) -> None:
    """Trains all stages together on auxiliary rows, as somebody would before giving the head away.

    Uses the optimizer and schedule of ``training`` for ``pretrain_epochs``, or ``epochs`` where that is None.
    """
    head = Stage(network.head, "head", training)
    tail = Stage(network.tail, "tail", training) if network.tail is not None else None
    client, server = Client(-1, aux, head, tail, around), Server(Stage(network.body, "body", training), around)
    step = 0
    for epoch in range(training.epochs if training.pretrain_epochs is None else training.pretrain_epochs):
        order = torch.randperm(len(aux), generator=generator(seed, "pretrain", epoch))
        for positions in order.split(training.batch_size):
            rows = aux[positions]
            inputs, labels = rows.inputs.to(around.device), rows.labels.to(around.device)
            ctx = Context(rows.ids, -1, epoch, step, Phase.TRAINING)
            parcel = Parcel(client, Batch(inputs, rows.ids, labels), labels, ctx)
            joint_round(parcel, server, around, derive(seed, "pretrain draws", step))
            step += 1
        for stage in (head, server.body, tail):
            if stage is not None:
                stage.end_epoch()
