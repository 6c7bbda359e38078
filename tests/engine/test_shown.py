# SPDX-License-Identifier: Apache-2.0
"""What a watching attack is shown goes by its party: a client its own exchanges, who sees no smashed data none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from splitguard.engine.roles import Attack, Guess, OnlineAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Goal, Labels, Mode, Party, Profile, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange
from tests.engine import toys
from tests.engine.test_seats import reader


@dataclass
class Shown(OnlineAttack):
    """Keeps its view and every exchange."""

    goal: ClassVar[Goal] = Goal.INPUTS
    exchanges: list[Exchange] = field(default_factory=list)

    def start(self, view: View, generator: torch.Generator) -> None:
        self.view = view

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        self.exchanges.append(exchange)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, images=torch.zeros(len(view.ids), *view.input_shape))


def watched(threat: Threat, **how: Any) -> tuple[Session, Any]:
    attack = type("Made", (Shown,), {"threat": threat})()
    quick = Training(epochs=2, batch_size=8)
    return train(toys.lenet(), toys.data(2), training=quick, beside=[attack], **{"cut": "conv2", **how}), attack


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.SPLITFED])
def test_a_client_is_shown_what_it_sent_itself(mode: Mode) -> None:
    threat = Threat(Sees.SMASHED | Sees.LABEL_GRAD | Sees.CUT_GRAD, (Party.CLIENT,))
    run, attack = watched(threat, mode=mode, labels=Labels.SERVER)
    assert {e.client for e in attack.exchanges} == {0}
    ids = torch.cat([e.ids for e in attack.exchanges])
    assert torch.equal(ids.unique(), run.data.clients[0].sort().values)
    assert all(e.cut_grad is not None for e in attack.exchanges)
    assert attack.view.asked is Sees.NOTHING


def test_a_server_is_shown_what_every_client_sent() -> None:
    _, attack = watched(Threat(Sees.SMASHED))
    assert {e.client for e in attack.exchanges} == {0, 1}


@pytest.mark.parametrize("threat", [Threat(Sees.HEAD, (Party.PEER,)), Threat(Sees.BODY)])
def test_who_sees_no_smashed_data_is_shown_no_exchange(threat: Threat) -> None:
    run, attack = watched(threat)
    assert attack.exchanges == []
    if Sees.BODY in threat.needs:
        live, own = run.split.body.state_dict(), attack.view.body().state_dict()
        assert all(torch.equal(value, own[name]) for name, value in live.items())


@pytest.mark.parametrize("phase", ["training", "query"])
def test_releases_of_a_client_are_of_its_own_rows(phase: str) -> None:
    run, _ = watched(Threat(Sees.SMASHED))
    attack: Attack = reader(Sees.SMASHED | Sees.LABELS, Goal.INPUTS, Party.CLIENT)
    view = run.view(attack, phase=phase)
    assert torch.equal(view.releases.ids.unique(), view.ids.sort().values)
    assert bool(torch.isin(view.ids, run.data.clients[0]).all())
    assert len(view.ids) == {"training": 2, "query": 0}[phase]
    assert attack.threat.after_reading(view.asked).profile(view.party, view.mode, view.labels) is Profile.BLACK_BOX
