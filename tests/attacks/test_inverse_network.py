# SPDX-License-Identifier: Apache-2.0
"""The inverse network: what it asks, what it averages, and that it improves on the linear guess below it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.api import ATTACKS, Attack, Defense, Guess, View
from splitguard.building.linear import LinearInverse
from splitguard.errors import BadSetting
from splitguard.metrics import mse, psnr, ssim
from tests.attacks.views import Centre, Noise, gen, network, sent_view, smooth

LINEAR = (nn.Flatten(), nn.Linear(64, 80))
CONV = (Centre(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
AUX = smooth(200, seed=50)


class Flips(Defense):
    """Each coordinate changes its sign with probability 0.3: of several releases the mean loses how large it is."""

    def released_like(self, smashed: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.where(torch.rand(smashed.shape, generator=generator) < 0.3, -smashed, smashed)


class Scattered(nn.Module):
    """Pixels in another order: what lies about a place says nothing of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(0))
        return x.flatten(1)[:, order].view_as(x)


def build(**settings: Any) -> Attack:
    return ATTACKS.build("inverse-network", **settings)


def run(view: View, **settings: Any) -> Guess:
    guess = build(**settings).run(view, gen())
    assert guess.images is not None
    return guess


def test_a_linear_invertible_head_hides_nothing() -> None:
    x = smooth(6)
    guess = run(sent_view(x, [network(0, LINEAR)], [[0]] * 6, aux=AUX), steps=30)
    assert guess.images is not None
    assert float(psnr(guess.images, x).min()) > 35


def test_it_improves_on_the_linear_guess_and_that_on_the_mean() -> None:
    x, head = smooth(30), network(0, CONV)
    guess = run(sent_view(x, [head], [[0]] * 30, aux=AUX), steps=150)
    linear = LinearInverse.fit(head(AUX), AUX)(head(x)).clamp(0, 1)
    mean = AUX.mean(0).expand_as(x)
    assert guess.images is not None
    ours, theirs, blind = (float(ssim(g, x).mean()) for g in (guess.images, linear, mean))
    assert ours > theirs + 0.02  # measured .95, .91, .07
    assert theirs > blind + 0.5


def test_a_convolution_alone_is_inverted_at_each_place() -> None:
    x, layers = smooth(6), (Centre(), nn.Conv2d(1, 12, 3, padding=1))
    sent = sent_view(x, [network(0, layers)], [[0]] * 6, aux=AUX[:40])
    whole, local = run(sent, steps=30), run(sent, steps=30, local=True)
    assert whole.images is not None
    assert local.images is not None
    assert float(psnr(local.images, x).min()) > 60
    assert float(psnr(whole.images, x).mean()) < 40


def test_the_second_linear_guess_is_left_out_where_it_does_no_better_or_cannot_be() -> None:
    x = smooth(6)
    for layers in (LINEAR, (Scattered(), nn.Conv2d(1, 2, 3, padding=1))):
        sent = sent_view(x, [network(0, layers)], [[0]] * 6, aux=AUX)
        whole, local = run(sent, steps=10), run(sent, steps=10, local=True)
        assert whole.images is not None
        assert local.images is not None
        assert torch.equal(whole.images, local.images)


def test_behind_noise_the_second_linear_guess_costs_nothing_and_draws_the_same_again() -> None:
    x, layers = smooth(6), (Centre(), nn.Conv2d(1, 12, 3, padding=1))
    sent = sent_view(x, [network(0, layers)], [[0] * 3] * 6, aux=AUX, defense=Noise(0.3))
    whole, local, again = (run(sent, steps=12, reads="each", local=local).images for local in (False, True, True))
    assert whole is not None
    assert local is not None
    assert again is not None
    assert torch.equal(local, again)
    assert float(mse(local, x).mean()) < 1.1 * float(mse(whole, x).mean())


def test_without_noise_it_asks_once_and_with_noise_in_every_epoch() -> None:
    x, head = smooth(4), network(0, CONV)
    probe, steps, epochs = 2 * 16, 12, 2  # 180 images kept for training in batches of 32: 6 steps an epoch
    once = run(sent_view(x, [head], [[0]] * 4, aux=AUX), steps=steps)
    assert once.budget.queries == probe + 200
    assert (once.budget.steps, once.budget.aux) == (steps, 200)
    fresh = run(sent_view(x, [head], [[0]] * 4, aux=AUX, defense=Noise(0.1)), steps=steps)
    static = 200  # the decoder for one draw, which is tried as well
    assert fresh.budget.queries == probe + 20 + epochs * 180 + static
    assert fresh.budget.steps == 2 * steps
    naive = run(sent_view(x, [head], [[0]] * 4, aux=AUX, defense=Noise(0.1), adaptive=False), steps=steps)
    assert naive.budget.queries == probe + 200


def test_releases_of_one_head_are_averaged_and_cost_as_many_queries() -> None:
    x, heads = smooth(4), [network(0, CONV), network(1, CONV)]
    frozen = run(sent_view(x, heads, [[1, 1, 1]] * 4, aux=AUX, defense=Noise(0.1)), steps=6)
    assert frozen.settings["releases_averaged"] == 3
    assert frozen.budget.queries == 2 * 16 + 3 * 200 + 200
    for view in (
        sent_view(x, heads, [[0, 1, 1]] * 4, aux=AUX, defense=Noise(0.1)),
        sent_view(x, heads, [[1, 1, 1]] * 4, aux=AUX, defense=Noise(0.1), adaptive=False),
    ):
        assert run(view, steps=6).settings["releases_averaged"] == 1


def test_knowing_the_noise_and_all_releases_helps() -> None:
    x, head, error = smooth(20), network(0, CONV), {}
    for adaptive in (True, False):
        view = sent_view(x, [head], [[0] * 6] * 20, aux=AUX, defense=Noise(0.1), adaptive=adaptive)
        images = run(view, steps=60).images
        assert images is not None
        error[adaptive] = float(mse(images, x).mean())
    assert error[True] < 0.8 * error[False]


@pytest.mark.slow
def test_where_knowing_the_defense_misleads_it_does_what_a_static_attacker_does() -> None:
    """Half of all releases change their sign: a mean of six loses what each one tells."""

    class Signs(Defense):
        def released_like(self, smashed: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            drawn = 2 * torch.randint(2, (len(smashed), 1, 1, 1), generator=generator) - 1
            return drawn * smashed

    x, head = smooth(20), network(0, CONV)
    view = sent_view(x, [head], [[0] * 6] * 20, aux=AUX, defense=Signs())
    guess, static = run(view, steps=120), run(replace(view, adaptive=False), steps=120)
    assert (guess.settings["fresh_noise"], guess.settings["releases_averaged"]) == (False, 1)
    assert guess.images is not None
    assert static.images is not None
    ours, theirs, mean = (float(mse(g, x).mean()) for g in (guess.images, static.images, AUX.mean(0).expand_as(x)))
    assert ours < 1.2 * theirs
    assert theirs < 0.2 * mean


def test_reading_each_release_finds_what_the_mean_of_them_loses() -> None:
    x = smooth(20)
    view = sent_view(x, [network(0, CONV[:2])], [[0] * 4] * 20, aux=AUX, defense=Flips())
    mean, each = run(view, steps=60), run(view, steps=60, reads="each")
    assert (mean.settings["releases_averaged"], each.settings["releases_apart"]) == (4, 4)
    assert mean.images is not None
    assert each.images is not None
    assert float(mse(each.images, x).mean()) < 0.8 * float(mse(mean.images, x).mean())
    assert (mean.budget.steps, each.budget.steps) == (2 * 60, 3 * 60)
    epochs = 10  # of 6 steps
    assert each.budget.queries - mean.budget.queries == 4 * (20 + epochs * 180)


def test_of_gaussian_noise_the_mean_tells_all_and_reading_each_release_loses_little() -> None:
    """At most a tenth of the error is what learning from more inputs may cost."""
    x, error = smooth(20), {}
    for reads in ("mean", "each"):
        view = sent_view(x, [network(0, CONV)], [[0] * 4] * 20, aux=AUX, defense=Noise(0.1))
        guess = build(steps=60, reads=reads).run(view, gen(2))
        assert guess.images is not None
        error[reads] = float(mse(guess.images, x).mean())
    assert guess.settings["releases_apart"] == 4  # else the two are the same
    assert error["each"] < 1.1 * error["mean"]


def test_a_decoder_of_each_release_that_does_no_better_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown nothing here."""

    def nothing(releases: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(releases.flatten(1, 2))

    monkeypatch.setattr(sys.modules[type(build()).__module__], "side_by_side", nothing)
    view = sent_view(smooth(4), [network(0, CONV)], [[0] * 4] * 4, aux=AUX, defense=Noise(0.1))
    mean, each = run(view, steps=6), run(view, steps=6, reads="each")
    assert mean.images is not None
    assert each.images is not None
    assert torch.equal(mean.images, each.images)
    assert mean.settings == each.settings
    assert each.budget.steps == 3 * 6


@pytest.mark.parametrize(
    ("made_by", "sigma", "adaptive"),
    [([1], 0.1, True), ([0, 1, 1], 0.1, True), ([1, 1, 1], 0.1, False), ([1, 1, 1], 0.0, True)],
    ids=["one release", "the head moved", "not adaptive", "nothing is drawn"],
)
def test_where_there_is_no_mean_to_read_it_makes_no_difference(
    made_by: list[int], sigma: float, adaptive: bool
) -> None:
    heads = [network(0, CONV), network(1, CONV)]
    view = sent_view(smooth(4), heads, [made_by] * 4, aux=AUX, defense=Noise(sigma), adaptive=adaptive)
    mean, each = run(view, steps=12), run(view, steps=12, reads="each")
    assert mean.images is not None
    assert each.images is not None
    assert torch.equal(mean.images, each.images)
    assert mean.settings == each.settings
    assert replace(mean.budget, seconds=0.0) == replace(each.budget, seconds=0.0)


def test_the_decoder_of_the_best_epoch_is_used() -> None:
    """A step size that ruins the decoder leaves the linear guess, which is epoch 0."""
    x, head = smooth(10), network(0, LINEAR)
    guess = run(sent_view(x, [head], [[0]] * 10, aux=AUX), steps=40, lr=30.0)
    assert guess.settings["best_epoch"] == 0
    assert guess.images is not None
    assert float(psnr(guess.images, x).min()) > 30


def test_fewer_than_ten_images_are_refused() -> None:
    with pytest.raises(BadSetting, match="at least 10 auxiliary images; got 9"):
        run(sent_view(smooth(2), [network(0, CONV)], [[0]] * 2, aux=AUX[:9]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"blocks": -1}, "blocks must be at least 0"),
        ({"ssim": -0.1}, "ssim must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"aux": 9}, "aux must be at least 10"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"reads": "all"}, "'reads' got 'all': Input should be 'mean' or 'each'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        build(**settings)


def test_blocks_and_widths_of_the_literature_run() -> None:
    x = smooth(2)
    guess = run(sent_view(x, [network(0, CONV)], [[0]] * 2, aux=AUX[:12]), steps=1, blocks=8, width=64, ssim=0.0)
    assert guess.images is not None
    assert bool(torch.isfinite(guess.images).all())
