# SPDX-License-Identifier: Apache-2.0
"""What a session tells those who score a guess, and nobody else: who knew which label, and which network works."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from splitguard.data.rows import Rows
from splitguard.engine.access import answer
from splitguard.engine.defense import Context
from splitguard.engine.roles import Guess
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Sees, on_the_wire
from splitguard.engine.view import View
from splitguard.engine.wire import Phase
from splitguard.errors import BadSetting
from splitguard.seeding import generator

__all__ = ["Hits", "batches_of", "function_hits", "hits", "taught_labels", "told_labels"]

CHUNK = 256


class Hits(NamedTuple):
    """(N,) bool each: the test rows that the stolen network, the deployment, and the best blind network get right."""

    stolen: Tensor
    deployed: Tensor
    blind: Tensor


def told_labels(session: Session, view: View) -> Tensor | None:
    """(N,): the labels that crossed the wire with the victims' last release; None where this adversary saw none."""
    seen = Sees.LABELS in on_the_wire(view.party, view.mode, view.labels) and view.phase is Phase.TRAINING
    releases = session.transcript.releases(view.phase.value) if seen else None
    return None if releases is None else releases.last(view.ids).labels


def batches_of(session: Session, view: View) -> Tensor | None:
    """(N,): the round in which each victim was last sent for training, in one client's batch of the context's epoch.

    None where no such context was kept, as where the labels are sent, or where it does not hold every victim.
    """
    context = session.transcript.releases("context") if view.phase is Phase.TRAINING else None
    if context is None or not bool(torch.isin(view.ids, context.ids).all()):
        return None
    return context.last(view.ids).step


def taught_labels(session: Session) -> Tensor:
    """(M,): the auxiliary rows' labels as this deployment would show them, from whose images a blind guess learns.

    They go through `Defense.on_labels` as of rows that it never met; what it remembers stays as it is.
    """
    aux = session.data.aux
    if not session.defense.overrides("on_labels"):
        return aux.labels
    # Ids below -1 are nobody's row.
    ctx = Context(-2 - aux.ids, -1, 0, -1, Phase.TRAINING)
    return copy.deepcopy(session.defense).on_labels(aux.labels, ctx, generator(session.seed, "auxiliary labels"))


def function_hits(session: Session, guess: Guess) -> Hits:
    """Which test rows the server's layers get right behind the stolen ones, and which others do.

    The deployment's own: with its defense on, noise drawn anew. Blind is the better, on these rows, of `Session.alone`
    and of the class that is most frequent among auxiliary rows.

    Raises:
        BadSetting: without a stolen head, without a stolen tail where the client holds one, or if they do not fit.
    """
    if guess.head is None:
        raise BadSetting("an attack after functionality hands over a stolen head; its guess has none")
    stages = [guess.head, session.split.body]
    if session.labels is Labels.CLIENT:
        if guess.tail is None:
            raise BadSetting("an attack after functionality hands over a stolen tail where the client holds one")
        stages.append(guess.tail)
    rows = session.data.test
    draws = generator(session.seed, "functionality")
    sent = torch.cat([answer(session, part, draws) for part in rows.inputs.split(CHUNK)])
    behind = [stage for name, stage in session.split.stages if name != "head"]
    most = int(session.data.classes_prior.nan_to_num(1.0).argmax())
    blinds = [rows.labels == most]
    alone = session.alone()
    if alone is not None:
        blinds.append(hits([stage for _, stage in alone.stages], rows))
    return Hits(
        stolen=hits(stages, rows),
        deployed=hits(behind, dataclasses.replace(rows, inputs=sent)),
        blind=max(blinds, key=lambda found: int(found.sum())),
    )


def hits(stages: Sequence[nn.Module], rows: Rows) -> Tensor:
    """(N,) bool: which rows the stages, one behind the other and in eval mode, classify rightly.

    Raises:
        BadSetting: if what one stage makes does not fit into the next.
    """
    out = []
    modes = [(module, module.training) for stage in stages for module in stage.modules()]
    for stage in stages:
        stage.eval()
    with torch.no_grad():
        for chunk in torch.arange(len(rows)).split(CHUNK):
            x = rows.inputs[chunk]
            for stage in stages:
                like = next(stage.parameters(), x)
                try:
                    x = stage(x.to(like.device, like.dtype))
                except RuntimeError as error:
                    raise BadSetting(
                        "the layers do not fit together: a stolen head maps (N, *in) to (N, *cut1), a stolen tail "
                        f"(N, *cut2) to (N, K); {error}"
                    ) from None
            out.append(x.argmax(1).cpu() == rows.labels[chunk])
    for module, mode in modes:
        module.training = mode
    return torch.cat(out)
