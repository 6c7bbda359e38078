# SPDX-License-Identifier: Apache-2.0
"""How a view gets at the networks of a finished session, and how rows are sent through it once more."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from splitguard.engine.defense import Context
from splitguard.engine.deployed import Deployed
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.view import Models
from splitguard.engine.wire import Phase, State
from splitguard.errors import MissingKnowledge

if TYPE_CHECKING:
    from splitguard.engine.session import Session

__all__ = ["answer", "models_of"]


def models_of(session: Session) -> Models:
    """Copies of the networks in eval mode, without gradients, and the pipeline as deployed."""

    def at(part: str, snapshot: int | None) -> nn.Module:
        module = copy.deepcopy(getattr(session.split, part))
        if snapshot is not None:
            state = session.transcript.snapshots[snapshot]
            own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
            if not own and module.state_dict():
                raise MissingKnowledge(
                    f"with a frozen head the {part} is kept as it ended, and no snapshot before that"
                )
            module.load_state_dict(own)
        frozen: nn.Module = module.eval().requires_grad_(False)
        return frozen

    def state(snapshot: int) -> State:
        return session.transcript.snapshots[snapshot]

    return Models(
        head=lambda snapshot: at("head", snapshot),
        body=lambda: at("body", None),
        tail=lambda snapshot: at("tail", snapshot),
        blank_head=lambda gen: fresh_copy(session.split.head, gen),
        query=lambda inputs, gen: answer(session, inputs, gen),
        state=state,
    )


def answer(session: Session, inputs: Tensor, gen: torch.Generator) -> Tensor:
    """(N, *cut1): what the deployed pipeline, defense included, makes of inputs that are no rows of the deployment.

    It is asked on the device on which ``inputs`` are.
    """
    ids = torch.full((len(inputs),), -1, dtype=torch.int64)
    head = session.split.head if inputs.device.type == "cpu" else copy.deepcopy(session.split.head).to(inputs.device)
    pipeline = Deployed((head,), None, gen, inputs.device)
    ctx = Context(ids, -1, session.training.epochs, -1, Phase.QUERY)
    return session.defense.during(Phase.QUERY).released_like(pipeline.send(inputs, ctx), gen)
