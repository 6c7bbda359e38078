# SPDX-License-Identifier: Apache-2.0
"""White-box inversion where the answer is known, and its loss against the formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.api import ATTACKS, Attack
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.priors import Spectrum, total_variation
from splitguard.errors import BadSetting
from splitguard.metrics import mse, psnr
from tests.attacks.views import Centre, Mute, Noise, gen, network, sent_view, smooth

LINEAR = (nn.Flatten(), nn.Linear(64, 80))
CONV = (Centre(), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
AUX = smooth(60, seed=50)


def build(**settings: Any) -> Attack:
    return ATTACKS.build("white-box-inversion", **settings)


def test_a_linear_invertible_head_hides_nothing() -> None:
    x = smooth(6)
    view = sent_view(x, [network(0, LINEAR)], [[0]] * 6, aux=AUX)
    guess = build(slack=1e-4, tune=False).run(view, gen())
    assert guess.images is not None
    assert float(psnr(guess.images, x).min()) > 50


def test_a_convolution_hides_little_and_tuning_finds_that_out() -> None:
    x = smooth(6)
    view = sent_view(x, [network(0, CONV)], [[0]] * 6, aux=AUX)
    attack = build()
    guess = attack.run(view, gen())
    assert guess.images is not None
    assert float(psnr(guess.images, x).mean()) > 30
    assert guess.settings["slack"] in {0.1, 0.01, 0.001}
    tuning, own = 60, 200
    assert own < guess.budget.steps <= own + tuning or guess.converged
    assert guess.budget.aux == 60


def test_at_the_truth_of_a_noiseless_release_the_loss_is_the_prior() -> None:
    x = smooth(4)
    view = sent_view(x, [network(0, CONV), network(1, CONV)], [[0, 1]] * 4, aux=AUX)
    rest = torch.cat([AUX[1:20], AUX[21:39], AUX[40:59]])  # the four pseudo-victims are left out
    spectrum = build(tune=False).objective(view, x)
    varies = build(tune=False, prior="tv").objective(view, x)
    assert spectrum is not None
    assert varies is not None
    assert torch.allclose(spectrum, Spectrum.fit(rest).penalty(x), rtol=1e-4)
    assert torch.allclose(varies, total_variation(x) / total_variation(rest).mean(), rtol=1e-4)


def test_the_loss_is_that_of_the_formula_and_the_guess_lowers_it() -> None:
    x = smooth(4)
    view = sent_view(x, [network(0, CONV), network(1, CONV)], [[0, 1]] * 4, aux=AUX, defense=Noise(0.1))
    attack = build(tune=False, slack=0.5, steps=60, batch=3)
    other = smooth(4, seed=7)
    prior = attack.objective(sent_view(other, [network(0, CONV)], [[0]] * 4, aux=AUX), other)
    misfit = JointLikelihood.of(view, releases=8).misfit(0.5)(other)
    at_other = attack.objective(view, other)
    assert at_other is not None
    assert prior is not None
    assert torch.allclose(at_other, misfit / 64 + prior, rtol=1e-4)
    guess = attack.run(view, gen())
    assert guess.images is not None
    at_guess, at_truth = attack.objective(view, guess.images), attack.objective(view, x)
    assert at_guess is not None
    assert at_truth is not None
    assert bool((at_guess < at_truth).all())  # with noise the best fit is better than the truth
    assert bool((at_guess < at_other).all())


def test_victims_are_independent_of_the_batch_they_are_optimised_in() -> None:
    """In double precision, in which rounding does not grow to anything over 30 steps."""
    x, made_by = smooth(5).double(), [[0, 1], [2], [1, 2], [0], [0, 2]]
    view = sent_view(x, [network(s, CONV).double() for s in range(3)], made_by, aux=AUX.double())
    together = build(tune=False, steps=30).run(view, gen()).images
    apart = build(tune=False, steps=30, batch=2).run(view, gen()).images
    assert together is not None
    assert apart is not None
    assert together.dtype is torch.float64
    assert float((together - apart).abs().max()) < 1e-9


def test_knowing_the_noise_and_all_releases_helps() -> None:
    x, heads = smooth(8), [network(s, CONV) for s in range(6)]
    error = {}
    for adaptive in (True, False):
        view = sent_view(x, heads, [list(range(6))] * 8, aux=AUX, defense=Noise(0.3), adaptive=adaptive)
        images = build().run(view, gen()).images
        assert images is not None
        error[adaptive] = float(mse(images, x).mean())
    assert error[True] < 0.5 * error[False]


@pytest.mark.slow
def test_where_knowing_the_defense_misleads_it_does_what_a_static_attacker_does() -> None:
    x, head = smooth(6), network(0, CONV)
    view = sent_view(x, [head], [[0] * 2] * 6, aux=AUX, defense=Mute())
    attack, static = build(), build()
    guess, naive = attack.run(view, gen()), static.run(replace(view, adaptive=False), gen())
    assert guess.images is not None
    assert naive.images is not None
    assert guess.settings["adaptive"] is False
    assert torch.equal(guess.images, naive.images)
    assert naive.budget.steps < guess.budget.steps <= naive.budget.steps + 60  # what was tried is counted
    loss, plain = attack.objective(view, guess.images), static.objective(replace(view, adaptive=False), guess.images)
    assert loss is not None
    assert plain is not None
    assert torch.equal(loss, plain)
    noisy = sent_view(x, [head], [[0] * 2] * 6, aux=AUX, defense=Noise(0.3))
    assert attack.run(noisy, gen()).settings["adaptive"] is True


def test_under_more_noise_than_signal_it_falls_back_to_what_it_knew_before() -> None:
    """The posterior is the prior, whose peak is the mean auxiliary image; a naive attacker fits the noise."""
    x = smooth(8)
    mean = AUX.mean(0).expand_as(x)
    view = sent_view(x, [network(0, CONV)], [[0]] * 8, aux=AUX, defense=Noise(30.0))
    images = build().run(view, gen()).images
    assert images is not None
    assert float((images - mean).abs().max()) < 0.1


def test_it_runs_on_few_auxiliary_rows_and_on_one_victim() -> None:
    x = smooth(1)
    view = sent_view(x, [network(0, CONV)], [[0]], aux=AUX[:8])
    images = build(steps=20).run(view, gen()).images
    assert images is not None
    assert images.shape == x.shape


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"releases": 0}, "releases must be at least 1"),
        ({"aux": 7}, "aux must be at least 8"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"slack": 0.0}, "slack must be positive; got 0.0"),
        ({"prior": "tvv"}, "setting 'prior' got 'tvv'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        build(**settings)
