# SPDX-License-Identifier: Apache-2.0
"""The shadow and what is inverted through it: exact null cases, moments in closed form, and what each part adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.api import ATTACKS, Defense, Guess, Mode, Rows, View
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.moments import Moments
from splitguard.building.shadow import latest, live, through_shadow
from splitguard.building.shadow_training import ShadowTraining
from splitguard.data import load
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.session import Session
from splitguard.engine.threat import Sees
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge
from splitguard.metrics import mse
from splitguard.models import make_model
from tests.attacks.views import Centre, Mute, Noise, gen, network, sent_view, smooth
from tests.engine import toys

CONV = (Centre(), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
AUX = smooth(40, seed=50)
QUICK = {"train_steps": 20, "steps": 10}


def below(x: torch.Tensor, aux: Rows, **more: Any) -> View:
    """A view of a head of known architecture, and of a body that reads two classes off what it makes."""
    head = network(0, CONV)
    body = network(1, (nn.Flatten(), nn.Linear(6 * 64, 2)))
    view = sent_view(x, [head], [[0]] * len(x), **more)
    models = replace(view.models, blank_head=lambda generator: fresh_copy(head, generator), body=lambda: body)
    return replace(view, models=models, _aux=aux, granted=Sees.SMASHED | Sees.BODY | Sees.ARCHITECTURE | Sees.AUX)


def labelled(count: int, seed: int = 50) -> Rows:
    """Images, and the class that the client's own network gives them."""
    inputs = smooth(count, seed=seed)
    logits = network(1, (nn.Flatten(), nn.Linear(6 * 64, 2)))(network(0, CONV)(inputs))
    return Rows(inputs, logits.sub(logits.mean(0)).argmax(1), torch.arange(count))


def run(view: View, **settings: Any) -> Guess:
    guess = ATTACKS.build("query-free", **settings).run(view, gen())
    assert guess.images is not None
    return guess


def test_dropout_of_a_shadow_draws_from_the_generator_alone() -> None:
    layer, x, before = nn.Dropout(0.5), torch.ones(4, 50), torch.get_rng_state()
    one, other, third = live(layer, x, gen()), live(layer, x, gen()), live(layer, x, gen(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert bool((one == 0).any())


def test_the_true_head_as_shadow_gives_the_likelihood_of_the_true_head() -> None:
    x = smooth(4)
    view = sent_view(x, [network(0, CONV)], [[0, 0]] * 4, aux=AUX, defense=Noise(0.2))
    blind = replace(view, granted=view.granted & ~Sees.HEAD)
    seen = through_shadow(blind, network(0, CONV))
    with pytest.raises(MissingKnowledge):
        blind.head()
    known, shadow = (JointLikelihood.of(v, releases=4).misfit(0.1)(smooth(4, seed=9)) for v in (view, seen))
    assert torch.equal(known, shadow)


def test_of_a_head_that_moved_the_last_release_alone_is_explained() -> None:
    x = smooth(3)
    moved = sent_view(x, [network(0, CONV), network(1, CONV)], [[0, 1]] * 3, aux=AUX)
    problem = JointLikelihood.of(through_shadow(moved, network(1, CONV)), releases=4)
    assert problem.head.tolist() == [-1] * 3
    assert float(problem.misfit(0.1)(x).max()) < 1e-6  # rounding of another batch size
    last, times = latest(moved)
    assert times == 1
    assert torch.equal(last, moved.releases.last(moved.ids).smashed)


def test_releases_of_one_head_are_averaged_unless_a_mask_is_told_of() -> None:
    class Masked(Defense):
        def residual(self, made: torch.Tensor, sent: torch.Tensor) -> torch.Tensor:
            return (made - sent) * (sent != 0)

    x, head = smooth(3), network(0, CONV)
    still = sent_view(x, [head], [[0] * 4] * 3, aux=AUX, defense=Noise(0.5))
    mean, times = latest(still)
    assert times == 4
    assert torch.allclose(mean[1], still.releases.smashed[still.releases.ids == 101].mean(0))
    assert latest(replace(still, adaptive=False))[1] == 1
    assert latest(sent_view(x, [head], [[0] * 4] * 3, aux=AUX, defense=Masked()))[1] == 1


@pytest.mark.parametrize("releases", [1, 9])
def test_moments_are_those_of_as_many_draws_as_were_averaged(releases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the true head of a network of one shadow, the noise left in what is compared is sigma^2 / T on both sides."""
    sent: list[torch.Tensor] = []
    of = Moments.of

    def spy(smashed: torch.Tensor, reach: int = 0) -> Moments:
        sent.append(smashed.detach())
        return of(smashed, reach)

    monkeypatch.setattr(Moments, "of", spy)
    x, aux, sigma = smooth(30), labelled(60), 5.0
    view = below(x, aux, defense=Noise(sigma))
    view = replace(
        view, _releases=sent_view(x, [network(0, CONV)], [[0] * releases] * 30, defense=Noise(sigma)).releases
    )
    ShadowTraining(steps=2, lr=1e-9, batch_size=60, moments=1.0, tries=1)(view, aux, gen())
    for rows in sent[:2]:  # what was sent, and what the shadow first makes
        assert float(rows.var(0).mean()) == pytest.approx(sigma**2 / releases, rel=0.15)


@pytest.mark.parametrize("reach", [0, 2])
def test_moments_are_compared_as_far_as_it_is_told(reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[int] = set()
    of = Moments.of

    def spy(smashed: torch.Tensor, reach: int = 0) -> Moments:
        found.add(reach)
        return of(smashed, reach)

    monkeypatch.setattr(Moments, "of", spy)
    run(below(smooth(2), labelled(40)), reach=reach, **QUICK)
    assert found == {reach}


@pytest.mark.slow
def test_moments_and_the_labels_of_the_victims_make_the_shadow_of_use() -> None:
    """Two classes say little about a head; all victims are faces, and half the auxiliary rows are not."""
    data = load("faces", seed=0)
    network = make_model("lenet", input_shape=data.input_shape, classes=data.classes, seed=0)
    session = train(network, data, cut="conv1", training=Training(epochs=3, batch_size=16))
    error = {}
    for weight in (0.0, 1.0):
        attack = ATTACKS.build("query-free", tune=False, train_steps=100, tries=1, steps=30, moments=weight)
        view = session.view(attack)
        images = attack.run(view, gen()).images
        assert images is not None
        error[weight] = float(mse(images, session.truth(view.ids).inputs).mean())
    mean = data.aux.inputs[data.aux.labels == 1].mean(0)
    blind = float(mse(mean.expand_as(session.truth(view.ids).inputs), session.truth(view.ids).inputs).mean())
    assert error[1.0] < 0.6 * error[0.0]
    assert error[1.0] < 0.7 * blind


def test_tuning_asks_a_second_shadow_and_counts_it() -> None:
    view = below(smooth(9), labelled(60))
    plain, tuned = run(view, tune=False, **QUICK), run(view, **QUICK)
    one = 20 + 2 * 5  # the best shadow, and a quarter of the steps for each of the two others
    assert plain.settings == {"slack": 0.3, "adaptive": True}
    assert tuned.settings["slack"] in {1.0, 0.3, 0.1, 0.03}
    assert 2 * one < tuned.budget.steps <= 2 * one + 5 + 10
    assert one < plain.budget.steps <= one + 10
    assert (plain.budget.aux, plain.budget.queries) == (60, 0)


@pytest.mark.slow
def test_where_knowing_the_defense_misleads_it_does_what_a_static_attacker_does() -> None:
    more = {"train_steps": 150, "steps": 30, "tries": 1}
    view = below(smooth(9), labelled(60), defense=Mute())
    guess, blind = run(view, **more), run(view, tune=False, **more)
    assert (guess.settings["adaptive"], blind.settings["adaptive"]) == (False, True)
    assert 3 * 150 < guess.budget.steps <= 3 * 150 + 2 * 15 + 30
    noisy = run(below(smooth(9), labelled(60), defense=Noise(0.3)), **QUICK)
    one = 20 + 2 * 5
    assert 3 * one < noisy.budget.steps <= 3 * one + 2 * 5 + 10  # a second way is tried, and counted


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    """A trained toy with one cut, and one with two."""
    quick = Training(epochs=4, batch_size=8)
    return {
        "vanilla": train(toys.lenet(), toys.data(2), cut="conv2", training=quick),
        "u-shaped": train(toys.lenet(), toys.data(2), mode=Mode.U_SHAPED, cut="conv2..fc1", training=quick),
    }


@pytest.mark.parametrize("mode", ["vanilla", "u-shaped"])
@pytest.mark.parametrize("phase", ["training", "query"])
def test_it_runs_in_the_engine(sessions: dict[str, Session], mode: str, phase: str) -> None:
    """Also with the dropout in the toy's head, and without the client's tail."""
    session = sessions[mode]
    aux = toys.rows(40, 5000, gen())
    attack = ATTACKS.build("query-free", tune=False, **QUICK)
    view = replace(session.view(attack, phase=phase), _aux=aux)
    assert not view.sees(Sees.HEAD)
    assert not view.sees(Sees.TAIL)
    before = torch.get_rng_state()
    images = attack.run(view, gen()).images
    assert torch.equal(before, torch.get_rng_state())
    assert images is not None
    assert images.shape == (len(view.ids), 1, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_a_body_kept_from_it_is_missed_by_name() -> None:
    view = below(smooth(2), labelled(40))
    with pytest.raises(MissingKnowledge, match="body"):
        run(replace(view, granted=view.granted & ~Sees.BODY), **QUICK)


def test_few_auxiliary_rows_are_refused() -> None:
    with pytest.raises(BadSetting, match="at least 32 auxiliary rows; got 31"):
        run(below(smooth(2), labelled(31)), **QUICK)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train_steps": 0}, "query-free: train_steps must be at least 1; got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"moments": -1.0}, "moments must be at least 0"),
        ({"reach": -1}, "reach must be at least 0; got -1"),
        ({"tries": 0}, "tries must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"slack": 0.0}, "slack must be positive"),
        ({"aux": 31}, "aux must be at least 32; got 31"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        ATTACKS.build("query-free", **settings)
