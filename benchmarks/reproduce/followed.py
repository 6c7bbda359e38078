# SPDX-License-Identifier: Apache-2.0
"""How far an attack in the server's seat is while the session trains: running means, as the logs of trainings have.

A record holds what an attack recovers in the end. A log tells of every step, and only who knows the truth can keep one:
`Log` sits beside the session, asks the attack what it makes of the batch that has just crossed, and holds that against
the client's rows. The attack is shown no more than in any other session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import mse_loss

from splitguard.api import (
    ATTACKS,
    BadSetting,
    Budget,
    Exchange,
    Goal,
    Guess,
    Labels,
    Mode,
    NotSupported,
    OnlineAttack,
    Party,
    Profile,
    Rows,
    Sees,
    ServerAttack,
    Threat,
    View,
    build_defense,
)
from splitguard.data import load
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.wire import entries
from splitguard.matrix import Cell, Matrix, Record
from splitguard.models import make_model

__all__ = ["Followed", "Log", "follow"]


class Log(OnlineAttack):
    """The mean squared error of an attack's guesses of each batch, in [0, 1], after the attack's step on that batch.

    Args:
        attack: in the server's seat of the same session; it needs no more than smashed data and auxiliary rows.
        truth: the clients' rows.

    Attributes:
        errors: one a step.
        budget: what the attack had spent after each step.
    """

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.AUX, (Party.SERVER,))

    def __init__(self, attack: ServerAttack, truth: Rows) -> None:
        self._attack, self._truth = attack, truth
        self.errors: list[float] = []
        self.budget: list[Budget] = []

    def start(self, view: View, generator: torch.Generator) -> None:
        """Nothing has crossed yet."""

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        """Asks, and compares."""
        every = torch.ones(len(exchange.ids), dtype=torch.bool)
        shown = replace(view, ids=exchange.ids, _releases=entries(exchange, every, head=-1))
        guess = self.run(shown, generator)
        assert guess.images is not None
        truth = self._truth.of(exchange.ids).inputs
        self.errors.append(float(mse_loss(guess.images.to(truth), truth)))
        self.budget.append(guess.budget)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """What the attack guesses."""
        return self._attack.run(view, generator)


@dataclass(frozen=True)
class Followed:
    """What `follow` found, as `Results` has it: a record for each cell and step, ``mse@STEP`` in its values."""

    records: Sequence[Record]

    def victims(self, record: Record) -> Mapping[str, npt.NDArray[Any]] | None:
        """None: a running mean is one number."""
        return None


def follow(matrix: Matrix, *, steps: Sequence[int], window: int) -> Followed:
    """Trains each cell with its attack in the server's seat, and a log beside it.

    Args:
        matrix: of attacks on inputs in the server's seat; one job, no folder: what is interrupted begins anew.
        steps: after which the means are taken; a step that a training does not reach has no record.
        window: over so many steps, fewer where there were fewer.

    Raises:
        BadSetting: for steps or a window below 1.
        NotSupported: for an attack in another seat, and whatever the matrix says of a cell that nobody can run.
    """
    if window < 1 or min(steps, default=0) < 1:
        raise BadSetting(f"follow: steps and window must be at least 1; got steps {list(steps)}, window {window}")
    records = []
    for resolved in matrix.cells:
        if resolved.reason is not None:
            raise NotSupported(f"{resolved.cell.label()}: {resolved.reason}")
        log = _played(resolved.cell)
        for step in steps:
            if step <= len(log.errors):
                values = {f"mse@{step}": float(np.mean(log.errors[max(step - window, 0) : step]))}
                spent = log.budget[step - 1]
                budget = {"steps": spent.steps, "queries": spent.queries, "aux": spent.aux, "seconds": spent.seconds}
                records.append(Record(resolved.cell, "training", "ok", None, values, {"budget": budget}))
    return Followed(records)


def _played(cell: Cell) -> Log:
    attack = ATTACKS.build(cell.attack.spec)
    if not isinstance(attack, ServerAttack) or attack.goal is not Goal.INPUTS:
        raise NotSupported(f"follow takes attacks on inputs in the server's seat, as fsha is; got {cell.attack}")
    data = load({name: value for name, value in cell.data.items() if name != "digest"}, seed=cell.seed)
    log = Log(attack, data.train)
    train(
        make_model(cell.model, input_shape=data.input_shape, classes=data.classes, seed=cell.seed),
        data,
        mode=Mode(cell.mode),
        cut=cell.cuts,
        labels=Labels(cell.labels),
        defense=build_defense([d.spec for d in cell.acting] or "none"),
        training=Training.parse(cell.training),
        seed=cell.seed,
        active=attack,
        beside=[log],
        profile=Profile.parse(cell.profile),
        adaptive=cell.adaptive,
    )
    return log
