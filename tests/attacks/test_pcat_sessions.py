# SPDX-License-Identifier: Apache-2.0
"""PCAT beside real sessions: it changes none, survives a kill, and reads labels and function off the live body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Goal, Guess, Mode, OnlineAttack, Profile
from splitguard.attacks.pcat import PCAT
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import NotSupported
from tests.attacks.streams import watch
from tests.attacks.views import gen
from tests.engine import toys
from tests.engine.test_resume import Killed, killer

TINY: dict[str, Any] = {"width": 4, "tail_width": 8, "decode": 2, "decoder_width": 4, "finish": 2, "late": 0.0}


def build(name: str, **settings: Any) -> PCAT:
    made = ATTACKS.build(name, **{**TINY, **settings})
    assert isinstance(made, PCAT)
    return made


def state(attack: PCAT) -> dict[str, Tensor]:
    found: dict[str, Tensor] = attack.watched()[0].state_dict()["nets"]
    return {name: value.clone() for name, value in found.items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def session(attack: OnlineAttack | None, *, epochs: int = 2, count: int = 46, **how: Any) -> Session:
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "adam", "lr": 0.003}, checkpoint_every=1)
    watching = [] if attack is None else [attack]
    how = {"cut": "conv2", **how}
    return train(toys.lenet(dropout=0.0), toys.data(1, count=count), training=training, beside=watching, **how)


U_SHAPED: dict[str, Any] = {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")}


@pytest.mark.parametrize(("name", "how"), [("pcat", {}), ("pcat-labels", U_SHAPED), ("pcat-functionality", U_SHAPED)])
def test_no_bit_of_the_session_changes_and_a_killed_one_goes_on(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    def answer(run: Session, attack: PCAT) -> Guess:
        return attack.run(run.view(attack, profile=Profile.BLACK_BOX), gen())

    whole, cut, resumed = (build(name, steps=2, late=0.01) for _ in range(3))
    one = session(whole, **how)
    assert one.digest == session(None, **how).digest
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        session(cut, checkpoint=path, progress=killer(7), **how)
    two = session(resumed, checkpoint=path, **how)
    assert one.digest == two.digest
    assert 0 < whole.watched()[0].steps == resumed.watched()[0].steps
    assert same(state(whole), state(resumed))
    first, second = answer(one, whole), answer(two, resumed)
    for part in ("images", "scores"):
        values = getattr(first, part), getattr(second, part)
        assert values == (None, None) or torch.equal(*values)
    if first.head is not None:
        assert second.head is not None
        assert same(first.head.state_dict(), second.head.state_dict())


@pytest.mark.slow
def test_the_live_body_teaches_the_function_of_head_and_tail() -> None:
    attack = build("pcat-functionality", steps=3, finish=50, width=8, lr=5e-3)
    run = session(attack, epochs=5, count=90, **U_SHAPED)
    guess = attack.run(run.view(attack), gen())
    assert guess.head is not None
    assert guess.tail is not None
    test = run.data.test

    def accuracy(head: nn.Module, tail: nn.Module) -> float:
        with torch.no_grad():
            return float((tail(run.split.body(head(test.inputs))).argmax(1) == test.labels).float().mean())

    fresh = watch(build("pcat-functionality", live=False, finish=0, width=8), run.view(attack), [])
    nothing = fresh.run(run.view(attack), gen())
    assert nothing.head is not None
    assert nothing.tail is not None
    assert accuracy(guess.head, guess.tail) > accuracy(nothing.head, nothing.tail) + 0.3


@pytest.mark.slow
def test_the_pseudo_tail_reads_labels_that_the_server_is_not_told() -> None:
    attack = build("pcat-labels", steps=3, finish=0, width=8, lr=5e-3)
    run = session(attack, epochs=5, count=90, **U_SHAPED)
    view = run.view(attack)
    guess = attack.run(view, gen())
    truth = run.truth(view.ids).labels
    assert guess.labels is not None
    assert guess.scores is not None
    assert torch.equal(guess.labels, guess.scores.argmax(1))
    share = float(torch.bincount(truth).max()) / len(truth)
    assert float((guess.labels == truth).float().mean()) > share + 0.2


def test_labels_that_the_server_is_given_are_not_inferred() -> None:
    assert ATTACKS.build("pcat-labels").goal is Goal.LABELS
    with pytest.raises(NotSupported, match="is given the labels"):
        session(build("pcat-labels"))
