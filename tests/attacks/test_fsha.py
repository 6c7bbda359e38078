# SPDX-License-Identifier: Apache-2.0
"""FSHA: the gradient it returns, what it trains on, and that it works in every mode and survives a kill."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.attacks.fsha import Fsha
from splitguard.building.pilots import Pilot
from splitguard.engine.session import Session
from splitguard.engine.threat import Mode, Profile
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from tests.attacks.views import Halved, gen, network, rows_of, sent_view, smooth
from tests.engine import toys
from tests.engine.test_resume import Killed, killer

SMALL: dict[str, Any] = {"warm_up": 5, "width": 4, "critic_width": 4, "blocks": 0}
HEAD = (nn.Conv2d(1, 3, 3, padding=1), nn.ReLU())


def view(**how: Any) -> View:
    return sent_view(smooth(4), [network(0, HEAD)], [[0]] * 4, aux=smooth(20, seed=50), **how)


def exchange(smashed: Tensor) -> Exchange:
    return Exchange(0, 0, Phase.TRAINING, 0, torch.arange(len(smashed)), smashed=smashed)


def started(known: View, **settings: Any) -> Fsha:
    attack = Fsha(**{**SMALL, **settings})
    attack.start(known, gen())
    return attack


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_the_client_gets_the_slope_of_the_critic(gain: float) -> None:
    """Of the mean over the batch, by the critic as it was when the batch came."""
    attack = started(view(), gain=gain)
    critic = copy.deepcopy(attack._nets["critic"])
    z = network(0, HEAD)(smooth(6)).requires_grad_()
    [wanted] = torch.autograd.grad(critic(z).mean(), z)
    returned = attack.backward(exchange(z.detach()), torch.full_like(z, 7.0))
    assert torch.equal(returned, gain * wanted)
    assert float(returned.abs().max()) > 0


def test_each_of_three_networks_moves_once_a_step() -> None:
    attack = started(view(), steps=3)
    z = network(0, HEAD)(smooth(6))
    attack.backward(exchange(z), torch.zeros_like(z))
    assert attack._nets.steps == 2 * SMALL["warm_up"] + 3 * 3
    attack.backward(exchange(z), torch.zeros_like(z))
    assert attack._nets.steps == 2 * SMALL["warm_up"] + 2 * 3 * 3  # it warms up once


def test_features_go_on_as_they_are() -> None:
    honest = torch.rand(6, 5)
    assert started(view()).forward(exchange(torch.rand(6, 3, 8, 8)), honest) is honest


@pytest.mark.parametrize("signed", [True, False])
def test_codes_end_at_0_where_the_cut_does(signed: bool) -> None:
    attack = started(view())
    z = network(0, HEAD)(smooth(6)) - 0.5 * signed
    attack.backward(exchange(z), torch.zeros_like(z))
    pilot = attack._nets["pilot"]
    assert isinstance(pilot, Pilot)
    assert (float(pilot(2 * smooth(8) - 1).detach().min()) >= 0) == (not signed)


@pytest.mark.parametrize("adaptive", [True, False])
def test_codes_go_through_the_defense_if_it_is_known(adaptive: bool) -> None:
    attack = started(view(defense=Halved(), adaptive=adaptive))
    images, codes = attack._codes(6)
    made = attack._nets["pilot"](images)
    assert torch.equal(codes, made / 2 if adaptive else made)
    assert float(images.min()) < 0  # in [-1, 1] inside


def test_a_head_that_follows_the_gradient_ends_among_the_codes() -> None:
    """The whole game by hand: the critic's two means draw together, and its inverse works on the client's images."""
    aux, x = smooth(100, seed=50), smooth(100, seed=9)
    attack = Fsha(steps=2, warm_up=100, width=4, critic_width=16, blocks=0, slope=0.0, penalty=10.0)
    attack.start(replace(view(), _aux=rows_of(aux)), gen())
    head = network(3, HEAD).train().requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)

    def error() -> float:
        with torch.no_grad():
            return float(((attack._nets["inverse"](head(x)) + 1) / 2 - x).square().mean())

    errors: list[float] = []
    for _ in range(80):
        optimizer.zero_grad()
        z = head(x[torch.randperm(100, generator=gen(len(errors)))[:16]])
        z.backward(attack.backward(exchange(z.detach()), torch.zeros_like(z)))
        optimizer.step()
        errors.append(error())
    blind = float((aux.mean(0) - x).square().mean())
    assert errors[-1] < 0.6 * blind < errors[0]  # measured .018, .040, .210


def session(attack: Fsha, **how: Any) -> Session:
    training = how.pop("training", Training(epochs=1, batch_size=8))
    return train(toys.lenet(), how.pop("data", toys.data(2)), training=training, active=attack, **how)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": Mode.VANILLA, "cut": "conv2"},
        {"mode": Mode.VANILLA, "cut": "fc1"},
        {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")},
        {"mode": Mode.SPLITFED, "cut": "conv1"},
    ],
    ids=lambda how: f"{how['mode']} {how['cut']}",
)
def test_it_works_in_every_mode(how: dict[str, Any]) -> None:
    attack = Fsha(**SMALL)
    run = session(attack, **how)
    for phase in ("training", "query"):
        seen = run.view(attack, phase=phase, profile=Profile.ACTIVE)
        guess = attack.run(seen, gen())
        assert guess.images is not None
        assert guess.images.shape == (len(seen.ids), 1, 8, 8)
        assert 0 <= float(guess.images.min()) <= float(guess.images.max()) <= 1
        # 46 rows of two clients in batches of 8: six exchanges, three steps each, after the warm-up
        assert (guess.budget.steps, guess.budget.aux) == (2 * SMALL["warm_up"] + 6 * 3, 24)


def test_it_does_without_a_class() -> None:
    data = toys.data(1)
    poorer = replace(data, aux=data.aux[data.aux.labels != 1])
    attack = Fsha(**SMALL)
    guess = attack.run(session(attack, data=poorer, cut="conv2").view(attack, profile=Profile.ACTIVE), gen())
    assert guess.budget.aux == len(poorer.aux) < len(data.aux)


def test_a_session_in_float64_is_hijacked_in_float64() -> None:
    attack = Fsha(**SMALL)
    run = session(attack, cut="conv2", training=Training(epochs=1, batch_size=8, precision="float64"))
    guess = attack.run(run.view(attack, profile=Profile.ACTIVE), gen())
    assert guess.images is not None
    assert guess.images.dtype is torch.float64


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_kill_and_resume_equals_uninterrupted(tmp_path: Path, precision: Any) -> None:
    training = Training(epochs=2, batch_size=8, checkpoint_every=1, precision=precision)
    whole, killed, resumed = Fsha(**SMALL), Fsha(**SMALL), Fsha(**SMALL)
    path = tmp_path / "checkpoint.pt"
    ended = session(whole, cut="conv2", training=training)
    with pytest.raises(Killed):
        session(killed, cut="conv2", training=training, checkpoint=path, progress=killer(5))
    again = session(resumed, cut="conv2", training=training, checkpoint=path)
    assert ended.digest == again.digest
    one, two = (
        attack.run(run.view(attack, profile=Profile.ACTIVE), gen())
        for attack, run in ((whole, ended), (resumed, again))
    )
    assert one.images is not None
    assert two.images is not None
    assert torch.equal(one.images, two.images)
    assert one.budget.steps == two.budget.steps


def test_a_frozen_head_cannot_be_hijacked() -> None:
    attack = Fsha(**SMALL)
    run = session(attack, cut="conv2", training=Training(epochs=1, batch_size=8, head="frozen"))
    with pytest.raises(NotSupported, match="the head must be trained, not frozen"):
        attack.run(run.view(attack, profile=Profile.ACTIVE), gen())


def test_it_is_refused_without_auxiliary_images() -> None:
    known = view()
    with pytest.raises(MissingKnowledge, match="aux"):
        started(replace(known, granted=known.granted & ~Fsha.threat.needs))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"warm_up": -1}, "warm_up must be at least 0"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"slope": 0.5}, "slope is 0 or 1; got 0.5"),
        ({"blocks": -1}, "blocks must be at least 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"critic_width": 0}, "critic_width must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"gain": 0.0}, "gain must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        Fsha(**settings)
