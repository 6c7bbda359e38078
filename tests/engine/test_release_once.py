# SPDX-License-Identifier: Apache-2.0
"""Rows that are sent once: one release each, the same training where nothing is drawn, and an exact resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from splitguard.api import DEFENSES, Labels, Mode, Phase
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from tests.engine import toys

HOW: list[dict[str, Any]] = [
    {"mode": Mode.VANILLA, "cut": "conv2"},
    {"mode": Mode.VANILLA, "cut": "conv2", "labels": Labels.SERVER},
    {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")},
    {"mode": Mode.SPLITFED, "cut": "conv2"},
]
ALWAYS = Training(epochs=3, batch_size=8, head="frozen", pretrain_epochs=1, optimizer={"name": "sgd", "lr": 0.05})
ONCE = dataclasses.replace(ALWAYS, release="once")


def noisy(training: Training, how: dict[str, Any], **more: Any) -> Session:
    defense = DEFENSES.build({"gaussian": {"epsilon": 50}})
    return train(toys.lenet(), toys.data(2), training=training, defense=defense, **how, **more)


@pytest.mark.parametrize("how", HOW, ids=lambda how: f"{how['mode']} {how.get('labels', '')}")
def test_without_noise_it_is_the_same_training_with_fewer_bytes(how: dict[str, Any]) -> None:
    always, once = (train(toys.lenet(), toys.data(2), training=t, **how) for t in (ALWAYS, ONCE))
    assert always.digest == once.digest
    assert (always.releases(), once.releases()) == (3, 1)
    data = once.data
    rows, size = len(data.train), once.transcript.releases("training").smashed[0].numel() * 4  # type: ignore[union-attr]
    assert always.costs["bytes_up"] - once.costs["bytes_up"] >= 2 * rows * size


def test_a_row_gets_one_draw_and_a_smaller_noise_for_the_same_epsilon() -> None:
    always, once = (noisy(t, HOW[0]) for t in (ALWAYS, ONCE))
    assert once.defense.noise_std() == pytest.approx(always.defense.noise_std() / 3**0.5, rel=0.1)
    [stated] = once.guarantees
    assert stated.T == 1
    assert stated.epsilon == pytest.approx(50)


def test_the_server_trains_on_what_it_was_sent(tmp_path: Path) -> None:
    """Context rows of a later epoch are, row for row, those of the first."""
    first = noisy(dataclasses.replace(ONCE, context_epoch=0), HOW[2]).transcript.releases("context")
    later = noisy(dataclasses.replace(ONCE, context_epoch=2), HOW[2]).transcript.releases("context")
    assert first is not None
    assert later is not None
    assert torch.equal(first.last(later.ids).smashed, later.smashed)
    assert later.returned_grad is not None


class Killed(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("how", HOW, ids=lambda how: f"{how['mode']} {how.get('labels', '')}")
def test_kill_and_resume_in_a_later_epoch_equals_uninterrupted(how: dict[str, Any], tmp_path: Path) -> None:
    training = dataclasses.replace(ONCE, checkpoint_every=1)
    whole = noisy(training, how)
    path = tmp_path / "checkpoint.pt"

    def progress(where: Progress) -> None:
        if where.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        noisy(training, how, checkpoint=path, progress=progress)
    again = noisy(training, how, checkpoint=path)
    assert again.digest == whole.digest
    for name, value in whole.transcript.state_dict().items():
        assert torch.equal(value, again.transcript.state_dict()[name]), name


def test_queries_are_sent_as_before() -> None:
    rows = noisy(ONCE, HOW[0]).transcript.releases(Phase.QUERY.value)
    assert rows is not None
    assert len(rows) == len(rows.ids.unique()) > 0


@pytest.mark.parametrize("more", [{"head": "trained"}, {"augment": {"flip": True}}])
def test_it_takes_a_frozen_head_and_no_augmentation(more: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="release: once needs head: frozen"):
        dataclasses.replace(ONCE, **more)
