# SPDX-License-Identifier: Apache-2.0
"""A defense as a mechanism that can be played against: what it sends, and what it claims of that."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Phase
from splitguard.errors import NotSupported
from splitguard.privacy.estimate import Claim
from splitguard.privacy.game import Send
from splitguard.privacy.guarantee import Guarantee
from splitguard.seeding import generator

__all__ = ["as_mechanism"]

#: Auxiliary rows, and classes, of the stand-in deployment.
AUX, CLASSES = 512, 10


def as_mechanism(defense: Defense, *, shape: tuple[int, ...], batch: int, releases: int) -> tuple[Send, Claim]:
    """Binds a fresh defense to a deployment whose head is public, frozen and the identity.

    Its smashed data are the inputs; auxiliary rows are standard normal, so that what a defense measures on them (a
    clip, say) is well defined.

    Args:
        defense: a fresh instance; it is bound here.
        shape: of one row's smashed data.
        batch: rows in a batch.
        releases: T of a training row.

    Returns:
        What it sends, row ids being told, and what it claims of a row's messages along the channel ``inputs``.

    Raises:
        NotSupported: if it claims nothing of inputs there: without a claim there is nothing to test.
    """
    draws = generator(0, "mechanism")
    ids = torch.arange(AUX)
    defense.bind(
        Deployment(
            mode=Mode.VANILLA,
            labels=Labels.SENT,
            cuts=("cut",),
            input_shape=shape,
            cut_shapes=(shape,),
            classes=CLASSES,
            batch_size=batch,
            epochs=releases,
            clients=1,
            releases={Phase.TRAINING: releases, Phase.EVALUATION: 1, Phase.QUERY: 1},
            aux=Rows(torch.randn(AUX, *shape, generator=draws), ids % CLASSES, ids),
            head=nn.Identity(),
            head_frozen=True,
        )
    )
    stated = [g for g in defense.privacy() if g.channel == "inputs" and g.epsilon_rows is not None]
    if not stated:
        raise NotSupported(
            f"{defense.name}: it claims no epsilon for the inputs of training rows, so there is nothing to test. "
            "`splitguard list defenses` shows which defenses claim one"
        )
    claimed = min(stated, key=lambda g: g.epsilon_rows or math.inf)

    def send(smashed: Tensor, ids: Tensor, number: int, generator: torch.Generator) -> Tensor:
        return defense.on_send(smashed, Context(ids, 0, number, number, Phase.TRAINING), generator)

    return send, _claim(claimed, releases)


def _claim(stated: Guarantee, releases: int) -> Claim:
    """What the game holds against the mechanism; T is the deployment's, whatever the guarantee says."""
    assert stated.epsilon_rows is not None
    gaussian = "Gaussian" in stated.mechanism and stated.delta > 0
    bound = 1.0
    if stated.sensitivity is not None:
        bound = stated.sensitivity / (2 if stated.adjacency == "replace-one" else 1)
    return Claim(stated.epsilon_rows, stated.delta, bound, releases, gaussian)
