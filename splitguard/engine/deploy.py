# SPDX-License-Identifier: Apache-2.0
"""What happens between splitting and training: a head is frozen, and the defense learns where it is deployed."""

from __future__ import annotations

import copy

from splitguard.data.rows import Data
from splitguard.engine.cut import SplitModel, mixes_rows
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.deployed import Deployed
from splitguard.engine.parties import Surroundings
from splitguard.engine.placement import Placement
from splitguard.engine.pretrain import pretrain
from splitguard.engine.threat import Mode
from splitguard.engine.training import Training
from splitguard.engine.wire import Phase
from splitguard.errors import BadSetting
from splitguard.seeding import generator

__all__ = ["bind", "freeze"]


def freeze(network: SplitModel, data: Data, training: Training, around: Surroundings, seed: int) -> float | None:
    """Pre-trains all stages on auxiliary rows, fixes the head, and returns the accuracy reached so far.

    None where nothing was trained: a random head says nothing about what auxiliary rows are good for.

    Raises:
        BadSetting: if there are no auxiliary rows to pre-train it on.
    """
    epochs = training.epochs if training.pretrain_epochs is None else training.pretrain_epochs
    if epochs > 0 and len(data.aux) == 0:
        raise BadSetting(
            "train: head: frozen is pre-trained, and needs auxiliary rows, or pretrain_epochs: 0 to leave it at its "
            "random weights; this data has no auxiliary rows"
        )
    network.train()
    if epochs == 0:
        network.head.eval().requires_grad_(False)
        return None
    pretrain(network, data.aux, training, around, seed)
    stages = tuple(module for _, module in network.stages)
    public = Deployed(stages, None, generator(seed, "unused"), around.device)
    accuracy = public.utility(data.test, Context(data.test.ids, -1, 0, 0, Phase.EVALUATION)).accuracy
    network.head.eval().requires_grad_(False)
    return accuracy


def bind(
    defense: Defense,
    network: SplitModel,
    data: Data,
    shapes: tuple[tuple[int, ...], ...],
    *,
    mode: Mode,
    place: Placement,
    training: Training,
) -> None:
    """Tells the defense where it is deployed."""
    frozen = training.head == "frozen"
    head = copy.deepcopy(network.head).cpu().eval().requires_grad_(False)
    evaluations = training.epochs if training.evaluate == "epoch" else 1
    defense.bind(
        Deployment(
            mode=mode,
            labels=place.labels,
            cuts=place.cuts,
            input_shape=data.input_shape,
            cut_shapes=shapes,
            classes=data.classes,
            batch_size=training.batch_size,
            epochs=training.epochs,
            clients=len(data.clients),
            releases={
                Phase.TRAINING: min(training.epochs, 1) if training.release == "once" else training.epochs,
                Phase.EVALUATION: evaluations,
                Phase.QUERY: 1,
            },
            aux=data.aux,
            head=head,
            head_frozen=frozen,
            mixing=tuple(mixes_rows(network.head, data.input_shape, training=not frozen)),
        )
    )
