# SPDX-License-Identifier: Apache-2.0
"""Randomised labels: the stated frequencies, one answer a row for good, and no true label anywhere in a training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import Batch, Context, Defense, Labels, Mode, NotSupported, Phase, Stack
from splitguard.defenses.label_dp import LabelDp
from splitguard.engine.bench import Bench
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.privacy import response
from tests.engine.toys import data, lenet


def context(ids: Tensor, epoch: int = 0) -> Context:
    return Context(ids, 0, epoch, epoch, Phase.TRAINING)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound(**settings: Any) -> LabelDp:
    defense = LabelDp(**settings)
    Bench(defense)
    return defense


@pytest.mark.parametrize("settings", [{"epsilon": 1.0}, {"epsilon": 0.5, "prior": "aux"}])
def test_answers_have_the_stated_frequencies(settings: dict[str, Any]) -> None:
    defense = LabelDp(**settings)
    deployment = Bench(LabelDp()).deployment
    aux = deployment.aux
    uneven = dataclasses.replace(aux, labels=torch.tensor([0, 0, 0, 0, 2, 2, 2, 1]))
    defense.bind(dataclasses.replace(deployment, aux=uneven))
    prior = [4, 1, 3] if "prior" in settings else [1, 1, 1]
    law = response(prior, epsilon=settings["epsilon"])
    n = 10_000
    labels = torch.arange(3 * n) % 3
    answers = defense.on_labels(labels, context(torch.arange(3 * n)), gen())
    for y in range(3):
        found = torch.bincount(answers[labels == y], minlength=3) / n
        assert ((found - law[y]).abs() < 4 * (law[y] * (1 - law[y]) / n).sqrt() + 1e-12).all()
    if "prior" in settings:
        assert not (answers == 1).any()  # the rare class is never answered at this epsilon


@pytest.mark.parametrize("prior", ["uniform", "aux"])
def test_the_largest_epsilon_leaves_every_label_as_it_is(prior: Any) -> None:
    defense = bound(epsilon=30.0, prior=prior)
    labels, ids = torch.arange(30_000) % 3, torch.arange(30_000)
    assert torch.equal(defense.on_labels(labels, context(ids), gen()), labels)
    assert not torch.equal(bound(epsilon=5.0, prior=prior).on_labels(labels, context(ids), gen()), labels)


def test_a_row_is_answered_once_whatever_batch_it_comes_in() -> None:
    defense, labels, ids = bound(epsilon=0.5), torch.arange(200) % 3, torch.arange(200)
    first = defense.on_labels(labels, context(ids), gen(1))
    for epoch in range(1, 4):
        for part in torch.randperm(200, generator=gen(epoch)).split(32):
            again = defense.on_labels(labels[part], context(ids[part], epoch), gen(100 + epoch))
            assert torch.equal(again, first[part])
    twice = defense.on_labels(torch.zeros(50, dtype=torch.int64), context(torch.full((50,), 999)), gen(2))
    assert len(twice.unique()) == 1


def test_a_majority_over_epochs_learns_no_more_than_one_answer() -> None:
    # At epsilon 1 with two classes one answer is right .731 of the time, a majority over 50 fresh ones .999.
    count, epochs = 2000, 50
    labels, ids = torch.arange(count) % 2, torch.arange(count)
    two = dataclasses.replace(Bench(LabelDp()).deployment, classes=2)
    defense = LabelDp(epsilon=1.0)
    defense.bind(two)
    votes = sum(defense.on_labels(labels, context(ids, e), gen(e)) for e in range(epochs))
    right = float(((2 * torch.as_tensor(votes) > epochs).long() == labels).double().mean())
    assert right == pytest.approx(0.731, abs=4 * (0.731 * 0.269 / count) ** 0.5)
    fresh = torch.zeros(count)
    for e in range(epochs):
        redrawn = LabelDp(epsilon=1.0)  # the bug of code in use
        redrawn.bind(two)
        fresh += redrawn.on_labels(labels, context(ids, e), gen(e))
    assert float(((2 * fresh > epochs).long() == labels).double().mean()) > 0.99


@pytest.mark.parametrize("bind", [True, False])
def test_a_resumed_run_keeps_its_answers(bind: bool) -> None:
    defense, labels, ids = bound(epsilon=1.0), torch.arange(90) % 3, torch.arange(90)
    first = defense.on_labels(labels[:60], context(ids[:60]), gen())
    twin = LabelDp(epsilon=1.0)
    if bind:
        Bench(twin)
    twin.load_state_dict(defense.state_dict())
    ones, twos = (d.on_labels(labels, context(ids), gen(7)) for d in (defense, twin))
    assert torch.equal(ones, twos)
    assert torch.equal(ones[:60], first)
    assert twin.privacy() == defense.privacy() != ()


@pytest.mark.parametrize(
    ("labels", "mode", "adversary"),
    [
        (Labels.SENT, None, "the server"),
        (Labels.SENT, Mode.SPLITFED, "the server, in league with the fed server,"),
        (Labels.CLIENT, None, "the server"),
        (Labels.SERVER, None, "the client whose row it is"),
    ],
)
def test_the_guarantee_names_its_adversary_and_does_not_grow_with_epochs(
    labels: Labels, mode: Mode | None, adversary: str
) -> None:
    told = []
    for epochs in (1, 100):
        defense = LabelDp(epsilon=2.0)
        Bench(defense, labels=labels, mode=mode, releases=epochs)
        [one] = defense.privacy()
        told.append((one.epsilon_rows, one.epsilon, one.delta, one.channel, one.adversary))
        assert epochs == one.T
    assert told == [(2.0, 2.0, 0.0, "labels", adversary)] * 2


def test_where_all_rows_get_one_answer_nothing_is_told() -> None:
    defense, deployment = LabelDp(epsilon=0.1, prior="aux"), Bench(LabelDp()).deployment
    one = dataclasses.replace(deployment.aux, labels=torch.zeros(8, dtype=torch.int64))
    defense.bind(dataclasses.replace(deployment, aux=one))
    [told] = defense.privacy()
    assert (told.epsilon, told.epsilon_rows) == (0.0, 0.0)
    assert not defense.on_labels(torch.arange(3), context(torch.arange(3)), gen()).any()


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(BadSetting, match="above 0 and up to 30"):
        LabelDp(epsilon=0.0)
    with pytest.raises(BadSetting, match=r"unknown prior 'axu'\. Did you mean 'aux'"):
        LabelDp(prior="axu")  # type: ignore[arg-type]  # that is what is refused
    deployment = Bench(LabelDp()).deployment
    with pytest.raises(BadSetting, match="there are none"):
        LabelDp(prior="aux").bind(dataclasses.replace(deployment, aux=deployment.aux[:0]))
    with pytest.raises(BadSetting, match=r"labels in 0\.\.2; got 2 ids and labels \[1, 3\]"):
        bound().on_labels(torch.tensor([1, 3]), context(torch.arange(2)), gen())
    with pytest.raises(BadSetting, match="got 1 ids"):
        bound().on_labels(torch.tensor([1, 2]), context(torch.arange(1)), gen())
    with pytest.raises(NotSupported, match="call bind before labels are used"):
        LabelDp().on_labels(torch.tensor([1]), context(torch.arange(1)), gen())
    assert (LabelDp().state_dict(), LabelDp().privacy()) == ({}, ())


@dataclass
class Spy(Defense):
    """Notes the labels that each hook is shown; learns by them as `cem` does."""

    seen: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def _note(self, hook: str, ids: Tensor, labels: Tensor | None) -> None:
        shown = [] if labels is None else list(zip(ids.tolist(), labels.tolist(), strict=True))
        self.seen.setdefault(hook, []).extend(shown)

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        self._note("penalty", batch.ids, batch.labels)
        return None

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        self._note("adversary_step", batch.ids, batch.labels)

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        self._note("on_return", ctx.ids, labels)
        return grad


WAYS: list[tuple[dict[str, Any], set[str]]] = [
    ({"mode": Mode.VANILLA, "cut": "pool1"}, {"penalty", "adversary_step"}),
    ({"mode": Mode.SPLITFED, "cut": "pool1"}, {"penalty", "adversary_step"}),
    ({"mode": Mode.U_SHAPED, "cut": ("pool1", "relu3")}, {"penalty", "adversary_step", "on_return"}),
    ({"mode": Mode.VANILLA, "cut": "pool1", "labels": Labels.SERVER}, {"on_return"}),
]


def run(defense: Defense, *, epochs: int = 3, **how: Any) -> Session:
    training = Training(epochs=epochs, batch_size=8, checkpoint_every=1)
    return train(lenet(), data(2), defense=defense, training=training, **how)


@pytest.mark.parametrize("how", [how for how, _ in WAYS])
def test_at_the_largest_epsilon_it_trains_the_undefended_network_to_the_bit(how: dict[str, Any]) -> None:
    plain, told = run(Defense(), **how), run(LabelDp(epsilon=30.0), **how)
    assert (told.digest, told.accuracy) == (plain.digest, plain.accuracy)
    assert [g.epsilon for g in told.guarantees] == [30.0]
    assert run(LabelDp(epsilon=0.2), **how).digest != plain.digest


@pytest.mark.parametrize(("how", "hooks"), WAYS)
@pytest.mark.parametrize("first", [True, False])
def test_no_hook_and_no_message_carries_a_true_label(how: dict[str, Any], hooks: set[str], first: bool) -> None:
    answers, spy = LabelDp(epsilon=0.2), Spy()
    session = run(Stack([answers, spy] if first else [spy, answers]), **how)
    rows = session.data.train.ids
    given = answers.on_labels(session.data.train.labels, context(rows), gen())
    assert not torch.equal(given, session.data.train.labels)
    wanted = dict(zip(rows.tolist(), given.tolist(), strict=True))
    for hook in ("penalty", "adversary_step", "on_return"):
        seen = spy.seen.get(hook, [])
        assert bool(seen) == (hook in hooks)
        assert all(wanted[row] == label for row, label in seen)
    releases = session.transcript.releases("training")
    assert releases is not None
    if releases.labels is not None:
        assert [wanted[row] for row in releases.ids.tolist()] == releases.labels.tolist()
    assert [g.epsilon for g in session.guarantees] == [0.2]


def test_an_interrupted_training_goes_on_with_the_same_answers(tmp_path: Path) -> None:
    how: dict[str, Any] = {"mode": Mode.VANILLA, "cut": "pool1"}
    whole, stop = run(LabelDp(epsilon=1.0), **how), tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(LabelDp(epsilon=1.0), checkpoint=stop, progress=interrupt, **how)
    assert run(LabelDp(epsilon=1.0), checkpoint=stop, **how).digest == whole.digest
