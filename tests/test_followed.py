# SPDX-License-Identifier: Apache-2.0
"""A log of an attack in the server's seat: errors of its guesses batch by batch, and nobody in the session feels it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmarks.reproduce.followed import Log, follow
from splitguard.api import ATTACKS, Exchange, Goal, Guess, NotSupported, Party, Sees, ServerAttack, Threat, View
from splitguard.data import load
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.matrix import Matrix
from splitguard.models import make_model

FACES = {"name": "faces", "train": 64, "test": 40, "aux": 60, "victims": {"member": 4, "query": 4}}
SMALL = {"warm_up": 5, "width": 4, "critic_width": 4, "blocks": 0}


class Brightness(ServerAttack):
    """Guesses images as bright as the first number of each row's smashed data, and keeps what it was shown."""

    goal = Goal.INPUTS
    threat = Threat(Sees.SMASHED, (Party.SERVER,), active=True)

    def start(self, view: View, generator: torch.Generator) -> None:
        """Nothing."""
        self.seen: list[Exchange] = []

    def backward(self, exchange: Exchange, honest: Tensor) -> Tensor:
        """The honest gradient."""
        self.seen.append(exchange)
        return honest

    def run(self, view: View, generator: torch.Generator) -> Guess:
        """(N, *in)."""
        first = view.releases.last(view.ids).smashed.flatten(1)[:, 0].sigmoid()
        return Guess(view.ids, images=first.view(-1, 1, 1, 1).expand(-1, *view.input_shape))


def session(active: ServerAttack, beside: list[Any], data: Any) -> str:
    network = make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=0)
    training = Training(epochs=2, batch_size=16, optimizer={"name": "adam", "lr": 1e-3})
    return train(network, data, cut="conv2", training=training, active=active, beside=beside).digest


def matrix(attack: Any, **training: Any) -> Matrix:
    return Matrix(
        {
            "data": FACES,
            "model": "lenet",
            "mode": "vanilla",
            "cut": "conv2",
            "attack": attack,
            "profile": "active",
            "train": {"epochs": 2, "batch_size": 16, **training},
            "seeds": 0,
        }
    )


def test_each_error_is_that_of_the_guess_of_its_own_batch() -> None:
    attack, data = Brightness(), load(FACES, seed=0)
    log = Log(attack, data.train)
    session(attack, [log], data)
    assert len(log.errors) == len(attack.seen) == 8
    for error, exchange in zip(log.errors, attack.seen, strict=True):
        guess = exchange.smashed.flatten(1)[:, 0].sigmoid().view(-1, 1, 1, 1)
        truth = data.train.of(exchange.ids).inputs
        assert error == pytest.approx(float(mse_loss(guess.expand_as(truth), truth)), rel=1e-5)


def test_a_log_changes_no_bit_of_the_session_or_of_the_attack() -> None:
    data = load(FACES, seed=0)
    alone, watched = (ATTACKS.build({"fsha": SMALL}) for _ in range(2))
    assert isinstance(alone, ServerAttack)
    assert isinstance(watched, ServerAttack)
    log = Log(watched, data.train)
    assert session(alone, [], data) == session(watched, [log], data)
    for one, other in zip(_tensors(alone), _tensors(watched), strict=True):
        assert torch.equal(one, other)
    assert len(log.errors) == 8


def _tensors(attack: ServerAttack) -> list[Tensor]:
    found: list[Tensor] = []

    def gather(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for each in value.values():
                gather(each)

    gather(attack.state_dict())
    assert len(found) > 10
    return found


def test_means_run_over_the_window_and_a_step_that_was_not_reached_has_none() -> None:
    found = follow(matrix({"fsha": SMALL}), steps=[1, 3, 8, 9], window=3)
    each = follow(matrix({"fsha": SMALL}), steps=range(1, 9), window=1)
    errors = [float(cast(float, record.values[f"mse@{step}"])) for step, record in enumerate(each.records, 1)]
    wanted = {"mse@1": errors[:1], "mse@3": errors[:3], "mse@8": errors[5:8]}
    assert len(set(errors)) == 8
    assert {name: value for record in found.records for name, value in record.values.items()} == {
        name: pytest.approx(sum(some) / len(some)) for name, some in wanted.items()
    }
    # Two networks warm up for 5 steps, which counts; then three make one a round.
    assert [record.extra["budget"]["steps"] for record in found.records] == [13, 19, 34]


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(NotSupported, match="in the server's seat"):
        follow(matrix("white-box-inversion"), steps=[1], window=1)
    with pytest.raises(NotSupported, match="frozen"):
        follow(matrix({"fsha": SMALL}, head="frozen"), steps=[1], window=1)
    with pytest.raises(BadSetting, match="at least 1"):
        follow(matrix({"fsha": SMALL}), steps=[0], window=1)
