# SPDX-License-Identifier: Apache-2.0
"""SDAR beside real sessions: every mode, no bit of the session moved, kills survived, labels found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from splitguard.attacks.sdar import Sdar, SdarLabels, _exchanged
from splitguard.engine.session import Session
from splitguard.engine.threat import Labels, Mode, Sees
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import NotSupported
from tests.attacks.test_sdar import DECODES, SMALL
from tests.attacks.views import gen
from tests.engine import toys
from tests.engine.test_resume import Killed, killer


def session(attack: Sdar | SdarLabels | None, **how: Any) -> Session:
    training = how.pop("training", Training(epochs=2, batch_size=8))
    beside = [] if attack is None else [attack]
    return train(how.pop("net", toys.resnet()), toys.data(2), training=training, beside=beside, **how)


MODES: list[dict[str, Any]] = [
    {"mode": Mode.VANILLA, "cut": "block1"},
    {"mode": Mode.VANILLA, "cut": "block1", "labels": Labels.SERVER},
    {"mode": Mode.U_SHAPED, "cut": ("block1", "flatten")},
    {"mode": Mode.SPLITFED, "cut": "block1"},
]


@pytest.mark.parametrize("how", MODES, ids=lambda how: "-".join(map(str, how.values())))
def test_it_works_in_every_mode_and_the_session_does_not_feel_it(how: dict[str, Any]) -> None:
    attack = Sdar(**{**DECODES, "finish": 2})
    run = session(attack, **how)
    assert run.digest == session(None, **how).digest
    for phase in ("training", "query"):
        seen = run.view(attack, phase=phase)
        guess = attack.run(seen, gen())
        assert guess.images is not None
        assert guess.images.shape == (len(seen.ids), 1, 8, 8)
        assert 0 <= float(guess.images.min()) <= float(guess.images.max()) <= 1
        nets = 5 if how["mode"] is Mode.U_SHAPED else 4
        assert guess.budget.steps == nets * (12 + 2)
    assert attack._told == (0 if how["mode"] is Mode.U_SHAPED else 3)


def test_a_session_in_float64_is_watched_in_float64() -> None:
    attack = Sdar(**DECODES)
    run = session(attack, cut="block1", training=Training(epochs=1, batch_size=8, precision="float64"))
    images = attack.run(run.view(attack), gen()).images
    assert images is not None
    assert images.dtype is torch.float64


@pytest.mark.parametrize("kind", [Sdar, SdarLabels])
def test_kill_and_resume_equals_uninterrupted(kind: type[Sdar] | type[SdarLabels], tmp_path: Path) -> None:
    settings = {**(DECODES if kind is Sdar else SMALL), "finish": 2}
    training = Training(epochs=2, batch_size=8, checkpoint_every=1)
    how = {**MODES[2 if kind is SdarLabels else 0], "training": training}
    whole, killed, resumed = (kind(**settings) for _ in range(3))
    path = tmp_path / "checkpoint.pt"
    ended = session(whole, **how)
    with pytest.raises(Killed):
        session(killed, **how, checkpoint=path, progress=killer(5))
    again = session(resumed, **how, checkpoint=path)
    one, two = (a.run(s.view(a), gen()) for a, s in ((whole, ended), (resumed, again)))
    for first, second in ((one.images, two.images), (one.scores, two.scores)):
        assert (first is None) == (second is None)
        assert first is None or second is None or torch.equal(first, second)
    assert one.budget.steps == two.budget.steps


@pytest.mark.slow
def test_labels_are_found_in_u_shaped_and_refused_where_they_are_given() -> None:
    attack = SdarLabels(steps=2, finish=200, critic_width=8, batch_size=24)
    training = Training(epochs=10, batch_size=8)
    how = {"net": toys.lenet(dropout=0.0), "cut": ("conv1", "relu3"), "mode": Mode.U_SHAPED, "training": training}
    run = session(attack, **how)
    view = run.view(attack)
    guess, truth = attack.run(view, gen()), run.truth(view.ids).labels
    assert guess.labels is not None
    assert guess.scores is not None
    torch.testing.assert_close(guess.scores.exp().sum(1), torch.ones(len(view.ids)))
    assert float((guess.labels == truth).float().mean()) > 0.8  # of three classes
    with pytest.raises(NotSupported, match="is given the labels"):
        session(SdarLabels(), cut="block1")


def test_rows_sent_before_the_simulation_began_are_judged_in_the_end() -> None:
    attack = SdarLabels(**{**SMALL, "first_step": 3, "finish": 3, "keep": 9})
    run = session(attack, **{**MODES[2], "training": Training(epochs=1, batch_size=8)})
    view, seen = run.view(attack), set(attack._scores)
    assert not set(view.ids.tolist()) <= seen
    scores = attack.run(view, gen()).scores
    assert scores is not None
    assert len(scores) == len(view.ids)
    assert torch.isfinite(scores).all()


def test_rows_that_are_kept_are_judged_again_in_the_end_and_others_as_they_crossed() -> None:
    how = {**MODES[2], "training": Training(epochs=2, batch_size=8)}
    attack = SdarLabels(**{**SMALL, "finish": 3, "keep": 9})
    run = session(attack, **how)
    view, kept = run.view(attack), set(attack._recent.last()[0].tolist())
    scores = attack.run(replace(view, granted=view.granted & ~Sees.KNOWN), gen()).scores
    assert scores is not None
    assert 0 < len(kept & set(view.ids.tolist())) < len(view.ids)
    for row, own in zip(view.ids.tolist(), scores, strict=True):
        assert torch.equal(own, attack._scores[row]) == (row not in kept)


def test_classes_are_exchanged_as_the_known_rows_say() -> None:
    sure = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]).log()
    assert _exchanged(sure, torch.tensor([0, 1, 2])).tolist() == [1, 2, 0]
    assert _exchanged(sure, torch.tensor([1, 2, 0])).tolist() == [0, 1, 2]
    # One that is taken for another class changes nothing while that class's own row is taken for itself.
    mistaken = torch.tensor([[0.98, 0.01, 0.01], [0.6, 0.38, 0.02], [0.01, 0.01, 0.98]]).log()
    assert _exchanged(mistaken, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]
    assert _exchanged(sure[:1], torch.tensor([0])).tolist()[0] == 1  # classes without a known row go last
