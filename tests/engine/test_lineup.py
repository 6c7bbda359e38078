# SPDX-License-Identifier: Apache-2.0
"""In the lineup of members and strangers nothing but the network's behaviour tells them apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from splitguard.api import build_defense
from splitguard.engine.defense import Context, Defense
from splitguard.engine.lineup import Lineup, send_lineup
from splitguard.engine.roles import Attack, Guess, OnlineAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Goal, Labels, Mode, Party, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import NotSupported
from tests.engine import toys
from tests.engine.small_defenses import Detector


def session(**how: Any) -> Session:
    return train(toys.lenet(), toys.data(2), training=Training(epochs=2, batch_size=8), **{"cut": "conv2", **how})


@dataclass
class Member(Attack):
    """Looks at all that it is granted."""

    goal: ClassVar[Goal] = Goal.MEMBERSHIP
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY, uses=Sees.LABELS | Sees.CANDIDATES)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, scores=torch.zeros(len(view.ids), 2))


def test_it_is_half_members_under_pseudonyms_in_an_order_of_the_seed() -> None:
    data = toys.data(2)
    lined = Lineup.of(data, 0)
    assert lined.ids.tolist() == list(range(10))  # 6 members and 5 query victims: 5 of each
    assert int(lined.members.sum()) == 5
    assert bool(torch.isin(lined.rows[lined.members], data.members).all())
    assert sorted(lined.rows[~lined.members].tolist()) == sorted(data.query.ids.tolist())
    again, other = Lineup.of(data, 0), Lineup.of(data, 1)
    assert torch.equal(lined.rows, again.rows)
    assert not torch.equal(lined.members, other.members)
    found = lined.found(data)
    for place, row in enumerate(lined.rows.tolist()):
        part = data.train if lined.members[place] else data.query
        (was,) = part.of(torch.tensor([row])).inputs
        assert torch.equal(found.inputs[place], was)
        assert found.labels[place] == part.of(torch.tensor([row])).labels


def test_the_order_tells_nothing_over_many_seeds() -> None:
    data = toys.data(2)
    first = torch.stack([Lineup.of(data, seed).members for seed in range(400)]).double().mean(0)
    assert float((first - 0.5).abs().max()) < 4.5 * (0.25 / 400) ** 0.5


def test_each_row_is_released_once_by_the_deployed_head() -> None:
    run = session()
    view = run.view(Member())
    assert view.phase is Phase.QUERY
    assert torch.equal(view.ids, run.lineup.ids)
    assert torch.equal(view.releases.ids, view.ids)
    rows = run.lineup.found(run.data)
    with torch.no_grad():
        assert torch.equal(view.releases.smashed, run.split.head(rows.inputs))
    assert view.releases.labels is not None
    assert torch.equal(view.releases.labels, rows.labels)
    for channel in ("ids", "epoch", "step", "client", "head", "batch"):
        values = getattr(view.releases, channel)
        assert channel == "ids" or len(values.unique()) == 1, channel


def test_a_client_that_keeps_its_labels_shows_none() -> None:
    run = session(mode=Mode.U_SHAPED, cut=("conv2", "fc1"), labels=Labels.CLIENT)
    assert run.view(Member()).releases.labels is None


def test_the_defense_acts_and_its_ledger_stays() -> None:
    run = session(defense=build_defense({"gaussian": {"epsilon": 50}}))
    before = repr(run.defense.state_dict())
    sent, again = send_lineup(run), send_lineup(run)
    assert repr(run.defense.state_dict()) == before
    assert torch.equal(sent.smashed, again.smashed)  # the same measurement, however often it is asked for
    with torch.no_grad():
        made = run.defense.mean_release(run.split.head(run.lineup.found(run.data).inputs))
    noise = sent.smashed - made
    sigma, count = run.defense.noise_std(), noise.numel()
    assert abs(float(noise.std()) / sigma - 1) < 4 / (2 * count) ** 0.5


class Remembers(Defense):
    """Sends a row that it has met before marked: with 1 added."""

    per_sample = True

    def __init__(self) -> None:
        self.met: set[int] = set()

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        known = torch.tensor([int(i) in self.met for i in ctx.ids])
        self.met |= set(ctx.ids.tolist())
        return smashed + known.to(smashed).view(-1, 1, 1, 1)


def test_what_a_defense_remembers_of_a_row_does_not_give_it_away() -> None:
    run = session(defense=Remembers())
    assert isinstance(run.defense, Remembers)
    met = set(run.defense.met)
    sent = send_lineup(run)
    assert run.defense.met == met
    with torch.no_grad():
        assert torch.equal(sent.smashed, run.split.head(run.lineup.found(run.data).inputs))


def test_it_is_asked_once_and_not_of_queries() -> None:
    run = session()
    with pytest.raises(NotSupported, match="on member and query victims together"):
        run.view(Member(), phase="query")


def test_a_client_has_nothing_to_ask() -> None:
    client = type("Client", (Member,), {"threat": Threat(Sees.SMASHED, (Party.CLIENT,))})()
    with pytest.raises(NotSupported, match="only the server sees rows of members and of strangers"):
        session().view(client)


def test_a_watching_attack_hears_of_no_victim_before_the_end() -> None:
    @dataclass
    class Watches(OnlineAttack):
        """Notes whose view it is shown."""

        goal: ClassVar[Goal] = Goal.MEMBERSHIP
        threat: ClassVar[Threat] = Threat(Sees.SMASHED)
        shown: list[Tensor] = field(default_factory=list, init=False)

        def start(self, view: View, generator: torch.Generator) -> None:
            self.shown.append(view.ids)

        def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
            self.shown.append(view.ids)

        def run(self, view: View, generator: torch.Generator) -> Guess:
            return Guess(view.ids, scores=torch.zeros(len(view.ids), 2))

    attack = Watches()
    run = session(beside=[attack])
    assert len(attack.shown) > 2
    assert all(len(ids) == 0 for ids in attack.shown)
    assert len(attack.run(run.view(attack), torch.Generator()).ids) == 10


def test_members_that_a_stopped_session_never_sent_are_left_out() -> None:
    """Nobody trained on them: counted as members, they would make the attack look worse than it is."""
    stopped = session(defense=Detector(1.0, stop=True))
    released = stopped.transcript.releases("training")
    assert released is not None
    sent = stopped.data.members[torch.isin(stopped.data.members, released.ids)]
    assert 0 < len(sent) < 5
    lined = stopped.lineup
    assert sorted(lined.rows[lined.members].tolist()) == sorted(sent.tolist())
    assert len(lined.ids) == 2 * len(sent)
    assert torch.equal(stopped.view(Member()).ids, lined.ids)
