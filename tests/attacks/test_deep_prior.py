# SPDX-License-Identifier: Apache-2.0
"""The deep prior: its loss against the formula, where it stops, and networks that do not meet each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Attack, Mode
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.priors import total_variation
from splitguard.building.skipnet import CHANNELS, SkipNets, make_skip_nets
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.metrics import mse, ssim
from tests.attacks.views import Centre, Mute, Noise, gen, network, sent_view, smooth
from tests.engine import toys

CONV = (Centre(), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
AUX = smooth(40, seed=50)
SMALL = {"width": 8, "levels": 2, "releases": 2}


def build(**settings: Any) -> Attack:
    return ATTACKS.build("deep-prior", **{**SMALL, **settings})


def nets(copies: int, seed: int = 0, shape: tuple[int, int, int] = (1, 12, 9)) -> tuple[SkipNets, Tensor]:
    return make_skip_nets(copies, shape, width=4, levels=3, skip=2, generator=gen(seed))


def test_networks_side_by_side_do_what_each_does_alone() -> None:
    """The slow truth: one network a victim, with that victim's share of the weights."""
    many, noise = nets(3)
    together = many(noise)
    for n in range(3):
        one, _ = nets(1, seed=9)
        shares = {k: v.chunk(3)[n] for k, v in many.state_dict().items()}
        one.load_state_dict(shares)
        assert torch.allclose(one(noise[n : n + 1])[0], together[n], atol=1e-5)


def test_what_one_network_makes_depends_on_its_own_weights_and_noise_alone() -> None:
    many, noise = nets(3)
    noise.requires_grad_(True)
    weights = list(many.parameters())
    of_noise, *of_weights = torch.autograd.grad(many(noise)[1].sum(), [noise, *weights])
    assert not of_noise[[0, 2]].any()
    assert of_noise[1].any()
    for gradient in of_weights:
        own = gradient.chunk(3)
        assert not own[0].any()
        assert not own[2].any()


def test_weights_and_noise_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    one, other, third = nets(2), nets(2), nets(2, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one[0](one[1]), other[0](other[1]))
    assert not torch.equal(one[0](one[1]), third[0](third[1]))
    assert one[1].shape == (2, CHANNELS, 12, 9)


def test_images_too_small_for_a_level_are_refused() -> None:
    with pytest.raises(BadSetting, match="at least 5x5"):
        make_skip_nets(1, (1, 4, 9), width=4, levels=3, skip=2, generator=gen())
    with pytest.raises(BadSetting, match="make images"):
        make_skip_nets(1, (9,), width=4, levels=3, skip=2, generator=gen())
    few, noise = nets(1, shape=(3, 5, 5))
    assert few(noise).shape == (1, 3, 5, 5)


def test_a_convolution_hides_little() -> None:
    x = smooth(6)
    view = sent_view(x, [network(0, CONV)], [[0]] * 6, aux=AUX)
    images = build(steps=150).run(view, gen()).images
    assert images is not None
    mean = AUX.mean(0).expand_as(x)
    assert float(ssim(images, x).mean()) > float(ssim(mean, x).mean()) + 0.4
    assert float(mse(images, x).mean()) < 0.2 * float(mse(mean, x).mean())


def test_the_loss_is_that_of_the_formula() -> None:
    x, other = smooth(3), smooth(3, seed=7)
    view = sent_view(x, [network(0, CONV), network(1, CONV)], [[0, 1]] * 3, aux=AUX)
    attack = build(tv=0.5, slack=0.2, batch=2)
    rough = 0.5 * total_variation(x) / total_variation(AUX).mean()
    at_truth, at_other = attack.objective(view, x), attack.objective(view, other)
    assert at_truth is not None
    assert at_other is not None
    assert torch.allclose(at_truth, rough, rtol=1e-5)  # nothing is missed there
    misfit = JointLikelihood.of(view, releases=2).misfit(0.2)(other) / 64
    expected = misfit + 0.5 * total_variation(other) / total_variation(AUX).mean()
    assert torch.allclose(at_other, expected, rtol=1e-4)


@pytest.mark.slow
def test_it_stops_where_noise_begins() -> None:
    """With noise, going on means to paint it: each image is kept at the misfit that noise alone explains."""
    x = smooth(6)
    view = sent_view(x, [network(0, CONV)], [[0]] * 6, aux=AUX, defense=Noise(0.3))
    attack = build(steps=200, tv=0.0)
    guess = attack.run(view, gen())
    assert guess.images is not None
    assert guess.budget.steps < 3 * 200  # for the victims, and for two ways that were tried
    assert guess.converged
    reached, truth = attack.objective(view, guess.images), attack.objective(view, x)
    assert reached is not None
    assert truth is not None
    ratio = reached.mean() / truth.mean()
    assert 0.6 < float(ratio) < 1.25
    # An attacker who takes the noise for signal paints it, and ends further from the truth.
    naive = sent_view(x, [network(0, CONV)], [[0]] * 6, aux=AUX, defense=Noise(0.3), adaptive=False)
    painted = build(steps=200, tv=0.0).run(naive, gen()).images
    assert painted is not None
    assert float(mse(guess.images, x).mean()) < 0.8 * float(mse(painted, x).mean())


def test_where_knowing_the_defense_misleads_it_does_what_a_static_attacker_does() -> None:
    x = smooth(5)
    view = sent_view(x, [network(0, CONV)], [[0]] * 5, aux=AUX, defense=Mute())
    attack = build(steps=60, width=4)
    guess = attack.run(view, gen())
    assert guess.images is not None
    assert guess.settings["adaptive"] is False
    assert guess.budget.steps == 60 + 60 + 1  # where nothing is to be matched, one step is enough
    static = build(steps=60, width=4).objective(replace(view, adaptive=False), guess.images)
    chosen = attack.objective(view, guess.images)
    assert static is not None
    assert chosen is not None
    assert torch.equal(chosen, static)
    assert float(mse(guess.images, x).mean()) < 0.2 * float(x.var(0).mean())


def test_without_noise_it_never_stops_early_and_batches_bound_the_work() -> None:
    x = smooth(3)
    view = sent_view(x, [network(0, CONV)], [[0]] * 3, aux=AUX)
    guess = build(steps=12, batch=2).run(view, gen())
    assert guess.images is not None
    assert guess.images.shape == x.shape
    assert (guess.budget.steps, guess.budget.aux) == (12, 40)


@pytest.mark.parametrize(("mode", "cut"), [(Mode.SPLITFED, "conv2"), (Mode.U_SHAPED, "pool1..fc1")])
def test_it_runs_in_the_engine(mode: Mode, cut: str) -> None:
    session = train(toys.lenet(), toys.data(2), mode=mode, cut=cut, training=Training(epochs=2, batch_size=8))
    attack = build(steps=10)
    view = session.view(attack)
    images = attack.run(view, gen()).images
    assert images is not None
    assert images.shape == (len(view.ids), 1, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "deep-prior: steps must be at least 1; got 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"skip": 0}, "skip must be at least 1"),
        ({"releases": 0}, "releases must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"slack": 0.0}, "slack must be positive"),
        ({"jitter": -0.1}, "jitter must be at least 0"),
        ({"tv": -0.1}, "tv must be at least 0"),
        ({"aux": 7}, "aux must be at least 8; got 7"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        build(**settings)
