# SPDX-License-Identifier: Apache-2.0
"""Toy attacks in all four seats: they see what the table grants and no more, and only active ones change a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from splitguard.engine.roles import Attack, ClientAttack, Guess, OnlineAttack, ServerAttack
from splitguard.engine.session import Session
from splitguard.engine.threat import Goal, Labels, Mode, Party, Profile, Sees, Threat
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange
from splitguard.errors import MissingKnowledge, NotSupported
from tests.engine import toys

QUICK = Training(epochs=2, batch_size=8)


def session(**how: Any) -> Session:
    return train(toys.lenet(), toys.data(2), training=how.pop("training", QUICK), **{"cut": "conv2", **how})


@dataclass
class Reader(Attack):
    """Reads every kind of knowledge by its name."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, images=torch.zeros(len(view.ids), *view.input_shape))


def reader(needs: Sees, goal: Goal = Goal.INPUTS, *parties: Party) -> Reader:
    made: type[Reader] = type("Made", (Reader,), {"goal": goal, "threat": Threat(needs, parties or (Party.SERVER,))})
    return made()


READS = {
    Sees.HEAD: lambda v: v.head(),
    Sees.AUX: lambda v: v.aux,
    Sees.QUERY: lambda v: v.query(torch.zeros(1, 1, 8, 8), torch.Generator()),
    Sees.ARCHITECTURE: lambda v: v.blank_head(torch.Generator()),
    Sees.CANDIDATES: lambda v: v.candidates,
    Sees.BODY: lambda v: v.body(),
}


@pytest.mark.parametrize("kind", READS)
def test_after_reads_what_it_declares_and_is_granted_and_nothing_else(kind: Sees) -> None:
    run = session()
    READS[kind](run.view(reader(Sees.SMASHED | kind), profile=Profile.ACTIVE))
    if kind is not Sees.AUX:  # auxiliary rows are the attacker's own; every attack may use them
        with pytest.raises(MissingKnowledge, match=str(kind)):
            READS[kind](run.view(reader(Sees.SMASHED), profile=Profile.ACTIVE))


def test_channels_that_are_not_granted_are_none() -> None:
    run = session()
    bare = run.view(reader(Sees.SMASHED))
    assert bare.releases.labels is None
    assert bare.releases.cut_grad is None
    full = run.view(reader(Sees.SMASHED | Sees.LABELS | Sees.CUT_GRAD))
    assert full.releases.labels is not None
    assert full.releases.cut_grad is not None


def test_a_profile_that_is_too_weak_is_refused_with_the_reason() -> None:
    with pytest.raises(NotSupported, match="needs the profile head-known"):
        session().view(reader(Sees.SMASHED | Sees.HEAD), profile=Profile.QUERY)


def test_snapshots_reproduce_what_was_sent() -> None:
    run = train(toys.lenet(dropout=0.0), toys.data(2), training=QUICK, cut="conv2")
    view = run.view(reader(Sees.SMASHED | Sees.HEAD))
    releases = view.releases
    truth = run.truth(releases.ids)
    for i in range(len(releases)):
        head = view.head(int(releases.head[i]))
        torch.testing.assert_close(head(truth.inputs[i : i + 1])[0], releases.smashed[i])
    states = view.head_states(releases.head)
    assert states["conv1.weight"].shape[0] == len(releases)


@pytest.mark.parametrize(
    ("how", "party"),
    [
        ({"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")}, Party.SERVER),
        ({"labels": Labels.SERVER}, Party.CLIENT),
    ],
)
def test_label_gradients_reach_the_party_that_is_not_told_the_labels(how: dict[str, Any], party: Party) -> None:
    run = session(**how)
    view = run.view(reader(Sees.LABEL_GRAD | Sees.KNOWN | Sees.SMASHED, Goal.LABELS, Party.SERVER, Party.CLIENT))
    assert view.party is party
    assert torch.isin(view.ids, run.data.clients[0]).all()
    assert not torch.isin(view.known.ids, view.ids).any()
    assert view.known.labels.tolist() == [0, 1, 2]
    assert torch.equal(run.truth(view.known.ids).labels, view.known.labels)
    grads = view.label_grad(view.context)
    assert grads.shape[0] == len(run.data.clients[0])
    assert view.context.labels is None


@dataclass
class Watcher(OnlineAttack):
    """Tries to disturb: draws from the global generator, writes into what it is shown, trains on the body."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED | Sees.BODY | Sees.AUX)
    seen: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    def start(self, view: View, generator: torch.Generator) -> None:
        torch.manual_seed(99)

    def observe(self, exchange: Exchange, view: View, generator: torch.Generator) -> None:
        torch.rand(7)
        assert exchange.labels is None
        exchange.smashed.zero_()
        body = view.body()
        self.sums.append(sum(float(p.sum()) for p in body.parameters()))
        for p in body.parameters():
            p.zero_()
        self.seen.append(exchange.step)

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, images=torch.zeros(len(view.ids), *view.input_shape))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "sums": self.sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.sums = list(state["seen"]), list(state["sums"])


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.SPLITFED])
def test_beside_changes_no_bit_and_sees_the_live_body_at_each_step(mode: Mode) -> None:
    quiet = session(mode=mode)
    watcher = Watcher()
    watched = session(mode=mode, beside=[watcher])
    assert quiet.digest == watched.digest
    one, two = quiet.transcript.releases("training"), watched.transcript.releases("training")
    assert one is not None
    assert two is not None
    assert torch.equal(one.smashed, two.smashed)
    rounds = 3 if mode is Mode.SPLITFED else 6
    assert sorted(set(watcher.seen)) == list(range(rounds * 2))
    first = watcher.sums[:: 2 if mode is Mode.SPLITFED else 1]  # a second client in a round sees what the first left
    assert len(set(first)) == rounds * 2  # the body moved at each round, and its copy with it
    assert first[-1] == pytest.approx(sum(float(p.detach().sum()) for p in quiet.split.body.parameters()), rel=1e-5)


@dataclass
class Hijacker(ServerAttack):
    """Returns a gradient that shrinks the smashed data."""

    goal: ClassVar[Goal] = Goal.INPUTS
    threat: ClassVar[Threat] = Threat(Sees.SMASHED, active=True)

    def start(self, view: View, generator: torch.Generator) -> None:
        return

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        return 0.2 * exchange.smashed

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, images=torch.zeros(len(view.ids), *view.input_shape))


def test_the_servers_seat_replaces_the_cut_gradient() -> None:
    how = {"training": Training(epochs=8, batch_size=8), "cut": "conv2"}
    honest = session(**how).transcript.releases("query")
    hijacked = session(**how, active=Hijacker()).transcript.releases("query")
    assert honest is not None
    assert hijacked is not None
    assert hijacked.smashed.norm() < 0.2 * honest.smashed.norm()


def test_who_sits_in_the_servers_seat_declares_the_smashed_data_that_it_is_handed() -> None:
    class Silent(Hijacker):
        threat: ClassVar[Threat] = Threat(Sees.AUX, active=True)

    with pytest.raises(NotSupported, match=r"Silent: .* by Sees.SMASHED in its threat"):
        session(active=Silent())


def test_the_servers_seat_replaces_the_features() -> None:
    class Blank(Hijacker):
        def forward(self, exchange: Exchange, honest: Tensor | None) -> Tensor | None:
            assert honest is not None
            return torch.zeros_like(honest)

    run = session(mode=Mode.U_SHAPED, cut=("conv2", "fc1"), active=Blank())
    context = run.transcript.releases("context")
    assert context is not None
    assert context.features is not None
    assert not context.features.any()


@dataclass
class Lazy(ClientAttack):
    """Applies no gradient to its own layers."""

    goal: ClassVar[Goal] = Goal.LABELS
    threat: ClassVar[Threat] = Threat(Sees.LABEL_GRAD, (Party.CLIENT,), active=True)
    steps: list[int] = field(default_factory=list)

    def start(self, view: View, generator: torch.Generator) -> None:
        assert view.party is Party.CLIENT

    def client_grads(self, grads: Sequence[Tensor], step: int) -> Sequence[Tensor]:
        self.steps.append(step)
        return [torch.zeros_like(g) for g in grads]

    def run(self, view: View, generator: torch.Generator) -> Guess:
        return Guess(view.ids, labels=torch.zeros(len(view.ids), dtype=torch.int64))


def test_the_clients_seat_replaces_its_own_gradients() -> None:
    data = toys.data(1)
    training = Training(epochs=1, batch_size=8, optimizer={"name": "sgd", "lr": 0.1})
    start = toys.lenet().state_dict()
    lazy = Lazy()
    run = train(toys.lenet(), data, cut="conv2", active=lazy, training=training, labels=Labels.SERVER)
    assert lazy.steps == list(range(6))
    assert torch.equal(run.split.head.state_dict()["conv1.weight"], start["conv1.weight"])
    assert not torch.equal(run.split.body.state_dict()["fc2.weight"], start["fc2.weight"])


def test_a_seat_that_the_profile_does_not_allow_is_refused() -> None:
    with pytest.raises(NotSupported, match="needs the profile active"):
        session(active=Hijacker(), profile=Profile.HEAD_KNOWN)
