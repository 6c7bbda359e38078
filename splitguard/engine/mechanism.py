# SPDX-License-Identifier: Apache-2.0
"""A defense as a mechanism that can be played against: what it lets out, and what it claims of that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.canaries import CanaryHead, canary_step
from splitguard.engine.defense import Context, Defense, Deployment
from splitguard.engine.threat import Labels, Mode
from splitguard.engine.wire import Phase
from splitguard.errors import NotSupported
from splitguard.privacy.estimate import Claim
from splitguard.privacy.game import Send
from splitguard.privacy.gradient_game import Step
from splitguard.privacy.guarantee import Guarantee
from splitguard.privacy.label_game import Tell
from splitguard.seeding import generator

__all__ = ["CHANNELS", "Mechanism", "as_mechanism"]

HEAD = "head-weights"
#: Channels that a game is played on.
CHANNELS = ("inputs", "labels", HEAD)
#: Auxiliary rows of the stand-in deployment.
AUX = 512
#: So far out that any clip holds a row.
FAR_OUT = 1e6


@dataclass(frozen=True)
class Mechanism:
    """What a defense does to one channel, and what it claims of it for a training row's own messages.

    Attributes:
        channel: ``inputs``, ``labels`` or ``head-weights``.
        claim: what is held against it.
        send: from rows to rows: smashed data for inputs, or the gradient that the label owner returns for labels.
        tell: from labels to labels, for a defense that changes the labels themselves; then ``send`` is None.
        step: from the rows' own gradients to what the head's weights move by, for head-weights; then both are None.
    """

    channel: str
    claim: Claim
    send: Send | None = None
    tell: Tell | None = None
    step: Step | None = None


def as_mechanism(
    defense: Defense,
    *,
    shape: tuple[int, ...],
    batch: int,
    releases: int,
    classes: int = 10,
    channel: str | None = None,
) -> Mechanism:
    """Binds a fresh defense to a deployment that stands in for any.

    For inputs and labels the head is public, frozen and the identity: its smashed data are the inputs. For head-weights
    it is a trained `splitguard.engine.canaries.CanaryHead`, whose inputs are what a row's gradient shall be. Auxiliary
    rows are standard normal, with classes in equal numbers, so that what a defense measures on them (a clip, a prior)
    is well defined. Labels are sent, unless the defense acts on the gradient that their owner returns: then the client
    keeps them.

    Args:
        defense: a fresh instance; it is bound here.
        shape: of one row's smashed data and of the returned gradient; for head-weights, of its gradient in them.
        batch: rows in a batch.
        releases: T of a training row.
        classes: K.
        channel: one of `CHANNELS`; None for head-weights if it brings an optimizer for the head, and else for inputs,
            or labels if it claims no epsilon for those.

    Raises:
        NotSupported: if it claims nothing of that channel there: without a claim there is nothing to test.
    """
    brings = defense.overrides("optimizer")
    trained = channel == HEAD or (channel is None and brings)
    wanted = (HEAD,) if trained else CHANNELS[:2] if channel is None else (channel,)
    where = _deployment(defense, shape, batch=batch, releases=releases, classes=classes, trained=trained)
    try:
        defense.bind(where)
    except NotSupported as refused:
        if trained or not brings:
            raise
        raise NotSupported(
            f"{defense.name}: {channel} are tried where the head is frozen, and there it refuses: {refused}. What it "
            f"does to the training of a head is tried with channel {HEAD}"
        ) from refused
    for name in wanted:
        stated = [g for g in defense.privacy() if g.channel == name and g.epsilon_rows is not None]
        if stated:
            least = min(stated, key=lambda g: g.epsilon_rows or math.inf)
            claim = _claim(least, releases, 1.0 if trained else _reach(defense, shape))
            return _mechanism(defense, name, claim, shape)
    raise NotSupported(
        f"{defense.name}: it claims no epsilon for the {' or the '.join(wanted)} of training rows, so there is nothing "
        "to test. `splitguard list defenses` shows which defenses claim one"
    )


def _mechanism(defense: Defense, channel: str, claim: Claim, shape: tuple[int, ...]) -> Mechanism:
    def context(ids: Tensor, number: int) -> Context:
        return Context(ids, 0, number, number, Phase.TRAINING)

    def send(smashed: Tensor, ids: Tensor, number: int, generator: torch.Generator) -> Tensor:
        return defense.on_send(smashed, context(ids, number), generator)

    def hand_back(grad: Tensor, ids: Tensor, number: int, generator: torch.Generator) -> Tensor:
        return defense.on_return(grad, torch.zeros_like(ids), context(ids, number), generator)

    def tell(labels: Tensor, ids: Tensor, number: int, generator: torch.Generator) -> Tensor:
        return defense.on_labels(labels, context(ids, number), generator)

    if channel == HEAD:
        return Mechanism(channel, claim, step=canary_step(defense, shape))
    if channel == "inputs":
        return Mechanism(channel, claim, send=send)
    if defense.overrides("on_labels"):
        return Mechanism(channel, claim, tell=tell)
    return Mechanism(channel, claim, send=hand_back)


def _deployment(
    defense: Defense, shape: tuple[int, ...], *, batch: int, releases: int, classes: int, trained: bool
) -> Deployment:
    draws, ids = generator(0, "mechanism"), torch.arange(AUX)
    kept = defense.overrides("on_return")
    sent = (1,) if trained else shape
    return Deployment(
        mode=Mode.U_SHAPED if kept else Mode.VANILLA,
        labels=Labels.CLIENT if kept else Labels.SENT,
        cuts=("cut", "top") if kept else ("cut",),
        input_shape=shape,
        cut_shapes=(sent, sent) if kept else (sent,),
        classes=classes,
        batch_size=batch,
        epochs=releases,
        clients=1,
        releases={Phase.TRAINING: releases, Phase.EVALUATION: 1, Phase.QUERY: 1},
        aux=Rows(torch.randn(AUX, *shape, generator=draws), ids % classes, ids),
        head=CanaryHead(shape).eval() if trained else nn.Identity(),
        head_frozen=not trained,
    )


def _claim(stated: Guarantee, releases: int, reach: float) -> Claim:
    """What the game holds against the mechanism; T is the deployment's, whatever the guarantee says."""
    assert stated.epsilon_rows is not None
    gaussian = "Gaussian" in stated.mechanism and stated.delta > 0
    # A row that is left out of a batch adds to its sum of gradients what a zero gradient adds.
    zero_out = stated.adjacency == "zero-out" or (stated.adjacency == "add-remove" and stated.channel == HEAD)
    bound = reach if stated.sensitivity is None else stated.sensitivity / (1 if zero_out else 2)
    return Claim(stated.epsilon_rows, stated.delta, bound, releases, gaussian, zero_out)


def _reach(defense: Defense, shape: tuple[int, ...]) -> float:
    """The norm at which the mechanism holds rows far out along an axis; 1 where it holds them nowhere.

    Where a claim names no sensitivity in L2, this is the scale on which rows are far enough out to be held.
    """
    axis = torch.zeros(1, math.prod(shape))
    axis[0, 0] = 1.0
    near, far = (float(defense.mean_release(axis.view(1, *shape) * out).norm()) for out in (FAR_OUT, 2 * FAR_OUT))
    return near if near > 0 and math.isclose(near, far, rel_tol=1e-3) else 1.0
