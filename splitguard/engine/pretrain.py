# SPDX-License-Identifier: Apache-2.0
"""Training on auxiliary rows alone: for a head that is then public and frozen, and for who has no wire to listen to."""

from __future__ import annotations

import copy
import dataclasses
import math

import torch

from splitguard.data.rows import Data, Rows
from splitguard.engine.cut import SplitModel
from splitguard.engine.defense import Batch, Context
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.modes import Parcel, joint_round
from splitguard.engine.parties import Client, Server, Stage, Surroundings
from splitguard.engine.training import Training
from splitguard.engine.wire import Phase
from splitguard.seeding import derive, generator

__all__ = ["aux_alone", "pretrain"]


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


def aux_alone(split: SplitModel, data: Data, training: Training, seed: int) -> SplitModel:
    """The network that somebody trains who has auxiliary rows with labels, the architecture, and no wire.

    All stages, from fresh weights, with the settings of ``training``, for about as many steps as the session took:
    auxiliary rows are fewer, so each is seen more often. Nothing of ``split`` but its architecture is used.

    Args:
        split: of the session.
        data: whose ``aux`` is not empty.
        training: of the session.
        seed: draws weights and order.

    Returns:
        In eval mode, on the CPU.
    """
    passes = math.ceil(training.epochs * len(data.train) / len(data.aux))
    settings = dataclasses.replace(training, pretrain_epochs=None, epochs=passes)
    draws = generator(seed, "aux alone")
    twin = copy.deepcopy(split)
    for name, module in twin.stages:
        setattr(twin, name, fresh_copy(module, draws))
    device = settings.resolve_device()
    pretrain(twin.to(device).train(), data.aux, settings, Surroundings(device, settings.precision), seed)
    return twin.cpu().eval()
