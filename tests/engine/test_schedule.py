# SPDX-License-Identifier: Apache-2.0
"""What is redrawn from the seed is what crossed the wire; rows that an alarm kept back are nobody's victims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from splitguard.api import Alarm, Defense, Exchange, Goal, Guess, Mode, OnlineAttack, Sees, Threat, View
from splitguard.engine.schedule import sendings
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine import toys


@dataclass
class Notes(OnlineAttack):
    """Writes down which rows it sees, and when."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)
    seen: list[tuple[int, list[int]]] = field(default_factory=list)

    def start(self, view: View, generator: torch.Generator) -> None:
        self.seen.clear()

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        self.seen.append((exchange.step, exchange.ids.tolist()))

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, images=view.releases.last(view.ids).smashed.new_zeros(len(view.ids), *view.input_shape))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Stops(Defense):
    """Raises the alarm at its fifth exchange."""

    count = 0

    def alarm(self, exchange: Exchange) -> Alarm | None:
        self.count += 1
        return Alarm(1.0, stop=True) if self.count == 5 else None


@pytest.mark.parametrize("defense", [None, Stops])
@pytest.mark.parametrize(
    ("mode", "turn", "sizes"),
    [
        (Mode.VANILLA, "batch", (46,)),
        (Mode.VANILLA, "batch", (20, 9, 17)),
        (Mode.VANILLA, "epoch", (20, 9, 17)),
        (Mode.SPLITFED, "batch", (20, 9, 17)),
    ],
)
def test_what_is_redrawn_is_what_was_sent(
    mode: Mode, turn: str, sizes: tuple[int, ...], defense: type[Defense] | None
) -> None:
    notes = Notes()
    session = train(
        toys.lenet(),
        toys.data(len(sizes), sizes=sizes),
        mode=mode,
        cut="conv2",
        defense=defense() if defense else None,
        beside=[notes],
        training=Training(epochs=2, batch_size=4, turn=turn),  # type: ignore[arg-type]
    )
    assert [(step, ids.tolist()) for step, ids in sendings(session)] == notes.seen
    assert (len(notes.seen) < 10) == (defense is not None)


def test_a_row_that_was_never_sent_is_nobodys_victim() -> None:
    notes = Notes()
    data = toys.data(1)
    session = train(
        toys.lenet(), data, cut="conv2", defense=Stops(), training=Training(epochs=2, batch_size=4), beside=[notes]
    )
    sent = {row for _, ids in notes.seen for row in ids}
    view = session.view(notes)
    assert set(view.ids.tolist()) == sent & set(data.members.tolist())
    assert 0 < len(view.ids) < len(data.members)
    assert view.releases.last(view.ids).ids.tolist() == view.ids.tolist()
    assert len(session.view(notes, phase="query").ids) == len(data.query)
