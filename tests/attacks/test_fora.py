# SPDX-License-Identifier: Apache-2.0
"""FORA: its substitute takes on the distribution of the smashed data, from nothing but unlabelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Labels, Mode, Rows, Sees, View
from splitguard.attacks.fora import FORA
from splitguard.building.beside import Given
from splitguard.building.critics import gradient_penalty
from splitguard.building.learners import Learners
from splitguard.building.mmd import mk_mmd
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from tests.attacks.streams import Recorder, exchanges, stream_view, watch
from tests.attacks.views import Centre, gen, network, rows_of, smooth
from tests.engine import toys
from tests.engine.test_resume import Killed, killer

CONV = (Centre(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
TINY: dict[str, Any] = {
    "width": 4,
    "critic_width": 4,
    "critic_blocks": 1,
    "decode": 2,
    "decoder_width": 4,
    "finish": 2,
}


def build(**settings: Any) -> FORA:
    made = ATTACKS.build("fora", **{**TINY, **settings})
    assert isinstance(made, FORA)
    return made


def state(attack: FORA, name: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = attack.watched()[0].state_dict()["nets"]
    return {key: value.clone() for key, value in found.items() if key.startswith(name)}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


class Linear(nn.Module):
    """A critic <w, z>, whose slope is w everywhere."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, z: Tensor) -> Tensor:
        return (z * self.w).flatten(1).sum(1)


def test_the_penalty_is_on_the_slope_over_all_coordinates_of_a_sample() -> None:
    """A norm over the two sides of a map alone, as in one published code, would say (1 - 1)^2 = 0 for each channel."""
    w = torch.zeros(4, 3, 3)
    w[:, 1, 1] = 1.0
    one, other = torch.rand(5, 4, 3, 3, generator=gen(0)), torch.rand(5, 4, 3, 3, generator=gen(1))
    assert float(gradient_penalty(Linear(w), one, other, gen()).detach()) == pytest.approx((2 - 1) ** 2)
    # Lower than whatever the substitute makes, so that telling the two apart pulls w up, and the penalty pulls it down.
    sent, found = -1 - 5 * one, {}
    for penalty in (0.0, 1e6):
        nets = Learners({"client": (nn.Conv2d(1, 4, 3), 1e-3), "critic": (Linear(w), 0.1)})
        view = stream_view(smooth(2), network(0, CONV), rows_of(smooth(20, (1, 5, 5))))
        build(penalty=penalty).learn(nets, view, Given(sent, None, nn.Identity()), gen())
        found[penalty] = nets["critic"].state_dict()["w"][:, 1, 1]
    assert torch.allclose(found[0.0], torch.full((4,), 1.1))
    assert torch.allclose(found[1e6], torch.full((4,), 0.9))


def test_the_critic_is_low_on_what_was_sent_and_the_substitute_follows() -> None:
    """With a critic <w, z> the gradients are known: w moves to mean D~ - mean z, and f~ against w."""
    sent, w = torch.ones(6, 4, 3, 3), torch.full((4, 3, 3), 0.5)
    client = nn.Conv2d(1, 4, 3)
    nets = Learners({"client": (client, 1e-2), "critic": (Linear(w), 1e-3)})
    aux = smooth(20, (1, 5, 5))
    view = stream_view(smooth(2), network(0, CONV), rows_of(aux))
    with torch.no_grad():
        before = client(aux)
    assert bool((before.mean(0) < 1).all())
    build(a=0.0, penalty=0.0).learn(nets, view, Given(sent, None, nn.Identity()), gen())
    with torch.no_grad():
        assert bool((client(aux).mean(0) < before.mean(0)).all())  # f~ minimises E[D], and w is positive
    moved = nets["critic"].state_dict()["w"] - w
    assert bool((moved < 0).all())  # D falls where z is larger than f~(x)
    assert moved.abs().mean() == pytest.approx(1e-3, rel=1e-3)  # Adam's first step


def test_its_substitute_takes_on_the_distribution() -> None:
    head, aux, x = network(0, CONV), smooth(80, seed=50), smooth(64, seed=90)
    view = stream_view(smooth(2), head, rows_of(aux))
    found = {}
    for rounds in (0, 10):
        attack = build(width=8, lr=5e-3, critic_width=8, a=0.95)
        watch(attack, view, exchanges(x, head, size=16, rounds=rounds))
        with torch.no_grad():
            found[rounds] = float(mk_mmd(attack.watched()[0]["client"](aux), head(x)))
    assert found[10] < 0.2 * found[0]


def only_wire(view: View) -> View:
    return replace(view, granted=Sees.SMASHED | Sees.AUX)


def test_it_uses_the_smashed_data_and_unlabelled_samples_alone() -> None:
    head, aux = network(0, CONV), smooth(20, seed=50)
    found = []
    for labels in (torch.zeros(20, dtype=torch.int64), torch.arange(20) % 2):
        view = only_wire(stream_view(smooth(3), head, Rows(aux, labels, torch.arange(20))))
        attack = watch(build(), view, exchanges(smooth(16), head, size=8))
        found.append((state(attack), attack.run(view, gen()).images))
    assert same(found[0][0], found[1][0])
    assert found[0][1] is not None
    assert found[1][1] is not None
    assert torch.equal(found[0][1], found[1][1])
    with pytest.raises(MissingKnowledge, match="fora does not ask for the server's layers"):
        attack.body(view)(smooth(1))
    for kind in (Sees.SMASHED, Sees.AUX):
        with pytest.raises(MissingKnowledge, match=str(kind)):
            attack.run(replace(view, granted=view.granted & ~kind), gen())


def test_it_draws_the_defense_and_its_penalty_only_if_it_may_know_them() -> None:
    head = network(0, CONV)
    for adaptive in (True, False):
        defense = Recorder()
        view = stream_view(smooth(2), head, rows_of(smooth(20)), defense=defense, adaptive=adaptive)
        defense.drawn = 0  # the view was made with it
        watch(build(), view, exchanges(smooth(8), head, size=8)).run(view, gen())
        steps = 1 + TINY["finish"]
        # Beside them the decoder draws once to standardise and once a step, and what it is tried on beside one that
        # knows of no defense is drawn for each of the two; only steps of f~ have a penalty.
        # All that twice, as a second substitute has no penalty.
        assert defense.drawn == (2 * (steps + 1 + TINY["decode"] + 2) if adaptive else 0)
        assert [batch.labels for batch in defense.batches] == [None] * (steps if adaptive else 0)


def test_a_single_row_is_passed_over_and_running_changes_nothing() -> None:
    head = network(0, CONV)
    view = stream_view(smooth(3), head, rows_of(smooth(20)))
    attack = watch(build(), view, exchanges(smooth(9), head, size=8))
    assert attack.watched()[0].steps == 2  # f~ and D, once: the second exchange has one row
    before = state(attack)
    first, second = attack.run(view, gen()), attack.run(view, gen())
    assert same(before, state(attack))
    assert first.images is not None
    assert second.images is not None
    assert torch.equal(first.images, second.images)
    assert first.budget.steps == 2 + 2 * TINY["finish"] + TINY["decode"]
    assert first.budget.aux == 20


def session(attack: FORA | None, **how: Any) -> Session:
    training = Training(epochs=2, batch_size=8, optimizer={"name": "adam", "lr": 0.003}, checkpoint_every=1)
    watching = [] if attack is None else [attack]
    return train(toys.lenet(), toys.data(2), training=training, beside=watching, **{"cut": "conv2", **how})


@pytest.mark.parametrize(
    "how",
    [
        {"labels": Labels.SERVER},
        {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")},
        {"mode": Mode.SPLITFED, "cut": "fc1"},
    ],
    ids=lambda how: str(next(iter(how.values()))),
)
def test_no_bit_of_the_session_changes_and_a_killed_one_goes_on(how: dict[str, Any], tmp_path: Path) -> None:
    whole, cut, resumed = build(), build(), build()
    one = session(whole, **how)
    assert one.digest == session(None, **how).digest
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        session(cut, checkpoint=path, progress=killer(4), **how)
    two = session(resumed, checkpoint=path, **how)
    assert one.digest == two.digest
    assert 0 < whole.watched()[0].steps == resumed.watched()[0].steps
    assert same(state(whole), state(resumed))
    for phase in ("training", "query"):
        images = [a.run(s.view(a, phase=phase), gen()).images for a, s in ((whole, one), (resumed, two))]
        assert images[0] is not None
        assert images[1] is not None
        assert torch.equal(images[0], images[1])


def test_who_has_not_watched_is_refused() -> None:
    view = stream_view(smooth(2), network(0, CONV), rows_of(smooth(20)))
    with pytest.raises(NotSupported, match="fora watches a session while it is trained"):
        build().run(view, gen())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"a": 1.1}, r"fora: a is a share in \[0, 1\]; got 1.1"),
        ({"a": -0.1}, r"a is a share in \[0, 1\]"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"critic_width": 0}, "critic_width must be at least 1"),
        ({"critic_blocks": -1}, "critic_blocks must be at least 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"critic_lr": -1.0}, "critic_lr must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        build(**settings)
