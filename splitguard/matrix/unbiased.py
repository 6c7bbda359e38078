# SPDX-License-Identifier: Apache-2.0
"""The reference line of unbiased attackers, ``1 / dFIL``, at the victims of a session whose noise is of a known law."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from splitguard.engine.access import models_of
from splitguard.engine.mixing import mixes_rows
from splitguard.engine.wire import Phase
from splitguard.privacy.dfil import jacobian_trace, mse_reference
from splitguard.seeding import generator

if TYPE_CHECKING:
    from splitguard.engine.defense import Defense
    from splitguard.engine.session import Session
    from splitguard.matrix.record import Value

__all__ = ["unbiased_columns"]

#: Releases at which the trace is taken, at most and at least, and random directions at each (Hutchinson).
MOST, LEAST, PROBES = 64, 16, 8
#: Forward FLOPs that all this may cost: about a second on one core.
WORK = 1e9


def unbiased_columns(session: Session, phase: str) -> dict[str, Value]:
    """``dfil_mse``: no *unbiased* attacker reads the victims of this phase with a smaller ``mse`` on average.

        1 / mean over victims of  sum_t i tr(J_t^T J_t) / d

    with J_t the Jacobian at a victim of what a release is on average (the head that made it, then
    `Defense.mean_release`), i the information of its noise a coordinate (`Defense.noise_information`), d the number of
    input coordinates; see `splitguard.privacy.dfil`. The trace is estimated at up to 64 releases drawn from the seed,
    along random directions, to a few per cent; by Jensen's inequality the mean over victims of ``1 / dFIL`` is larger.
    In squared units of the input. It is no bound for attackers who know what images look like, and no epsilon.

    Missing, never 0: where noise is none or of unknown law, a head was not kept, the head mixed rows while it was
    trained, it costs too much, or torch cannot differentiate the head forwards.
    """
    shield = session.defense.during(Phase(phase))
    information, rows = shield.noise_information(), session.transcript.releases(phase)
    if information is None or rows is None or bool((rows.head < 0).any()) or _mixed(session, phase):
        return {}
    affordable = int(WORK // max(session.costs["client_flops"], 1))
    if affordable < LEAST:
        return {}
    draws = generator(session.seed, "unbiased", phase)
    chosen = rows.where(torch.randperm(len(rows), generator=draws)[: min(MOST, affordable)])
    probes = min(PROBES, affordable // len(chosen))
    traces, models = [], models_of(session)
    for made in chosen.head.unique().tolist():
        inputs = session.truth(chosen.ids[chosen.head == made]).inputs
        mean = _Mean(models.head(made), shield)
        try:
            traces.append(jacobian_trace(mean, inputs, probes=probes, generator=draws))
        except NotImplementedError:  # an operator without a forward derivative
            return {}
    each = len(rows) / len(rows.ids.unique())  # T
    told = float(torch.cat(traces).mean()) * each * information / math.prod(session.data.input_shape)
    reference = mse_reference(told)
    return {"dfil_mse": reference} if math.isfinite(reference) else {}


def _mixed(session: Session, phase: str) -> bool:
    """Whether what was sent of a row depended on other rows, so that it has no Jacobian of its own."""
    trained = phase == "training" and session.training.head == "trained"
    return trained and bool(mixes_rows(session.split.head, session.data.input_shape))


class _Mean(nn.Module):
    """What a release is on average."""

    def __init__(self, head: nn.Module, shield: Defense) -> None:
        super().__init__()
        self.head = head
        self._shield = shield

    def forward(self, inputs: Tensor) -> Tensor:
        return self._shield.mean_release(self.head(inputs))
