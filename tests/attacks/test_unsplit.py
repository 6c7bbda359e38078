# SPDX-License-Identifier: Apache-2.0
"""Inputs and head at once: where the truth is known, what cannot be told apart, and that no data is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Defense, Guess, Mode, Sees, View
from splitguard.attacks.unsplit import Unsplit, _misfit
from splitguard.building.blind import first_images, margin, stretched
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from splitguard.metrics import ssim
from tests.attacks.views import Centre, Noise, gen, network, sent_view, smooth
from tests.engine import toys

CONV = (Centre(), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
DENSE = (Centre(), nn.Flatten(), nn.Linear(144, 20), nn.ReLU())
ENOUGH = Sees.SMASHED | Sees.ARCHITECTURE


class Masked(Defense):
    """Every second coordinate is sent as 0; only the others count."""

    def residual(self, made: Tensor, sent: Tensor) -> Tensor:
        return (made - sent) * (sent != 0)

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        kept = torch.arange(smashed[0].numel()).view(smashed.shape[1:]) % 2 == 0
        return smashed * kept


def pictures(count: int, seed: int = 0) -> Tensor:
    """Dark pictures (count, 1, 12, 12) that reach from 0 to 1: bright blobs."""
    bright = smooth(count, (1, 12, 12), seed=seed)
    return stretched(bright, 0.02) ** 2


def blank_view(x: Tensor, layers: Any = CONV, *, times: int = 1, **more: Any) -> View:
    """A view that grants smashed data, each row sent so often, and the architecture of a head; nothing else."""
    head = network(0, layers).to(x)
    view = sent_view(x, [head], [[0] * times] * len(x), aux=x[:0], **more)
    models = replace(view.models, blank_head=lambda generator: fresh_copy(head, generator))
    return replace(view, models=models, granted=ENOUGH)


def run(view: View, **settings: Any) -> Guess:
    return ATTACKS.build("unsplit", **settings).run(view, gen())


def test_from_smashed_data_alone_most_of_the_picture_comes_back() -> None:
    x = pictures(16)
    images = run(blank_view(x), steps=150, clones=1).images
    assert images is not None
    mean = x.mean(0).expand_as(x)
    start = first_images(network(0, CONV)(x), (1, 12, 12), share=0.03, generator=gen())
    ours, first, other, blind = (float(ssim(guess, x).mean()) for guess in (images, start, 1 - start, mean))
    assert ours > blind + 0.3
    assert ours > max(first, other) + 0.05


@pytest.mark.parametrize("without", [Sees.SMASHED, Sees.ARCHITECTURE])
def test_what_it_needs_is_asked_for_by_name(without: Sees) -> None:
    view = blank_view(pictures(2))
    with pytest.raises(MissingKnowledge, match=str(without)):
        run(replace(view, granted=ENOUGH & ~without), steps=1)


def test_at_the_true_head_and_the_true_images_nothing_is_missed() -> None:
    x, rows = pictures(4), torch.arange(4)
    view = blank_view(x)
    sent = view.releases.smashed
    assert float(_misfit(view, sent)(network(0, CONV)(x), rows).max()) < 1e-10  # rounding of another batch size
    assert bool((_misfit(view, sent)(network(1, CONV)(x), rows) > 0.1).all())


def test_coordinates_that_a_mask_hides_do_not_count_for_who_knows_of_it() -> None:
    x, rows = pictures(4), torch.arange(4)
    view = blank_view(x, defense=Masked())
    made = network(0, CONV)(x)
    knows, naive = (_misfit(replace(view, adaptive=a), view.releases.smashed)(made, rows) for a in (True, False))
    assert float(knows.max()) < 1e-10
    assert bool((naive > 0.1).all())


def test_the_batch_changes_nothing_but_rounding() -> None:
    x = pictures(5).double()
    view = blank_view(x)
    one, other = (run(view, steps=15, warm_up=5, clones=1, batch=batch).images for batch in (64, 2))
    assert one is not None
    assert other is not None
    assert one.dtype is torch.float64
    assert float((one - other).abs().max()) < 1e-9


def test_the_mean_of_the_releases_of_one_head_is_matched() -> None:
    x = pictures(8)
    error = {}
    for times in (1, 25):
        view = blank_view(x, times=times, defense=Noise(0.5))
        images = run(view, steps=60, warm_up=30, clones=1).images
        assert images is not None
        error[times] = float((images - x).square().mean())
    assert error[25] < 0.8 * error[1]


def test_a_cut_without_places_is_answered_in_range() -> None:
    guess = run(blank_view(pictures(4), DENSE), steps=20, warm_up=5)
    assert guess.images is not None
    assert 0 <= float(guess.images.min()) <= float(guess.images.max()) <= 1
    assert guess.budget.steps == 2 * (2 * 5 + 20)
    assert guess.budget.aux == guess.budget.queries == 0


@pytest.mark.slow
def test_the_clone_explains_what_was_sent_and_is_handed_over_frozen() -> None:
    x = pictures(12)
    view = blank_view(x)
    settings = {"steps": 120, "clones": 1}
    guess = ATTACKS.build("unsplit-functionality", **settings).run(view, gen())
    images = run(view, **settings).images
    assert guess.head is not None
    assert images is not None
    assert not guess.head.training
    assert not any(p.requires_grad for p in guess.head.parameters())
    sent = view.releases.smashed
    untrained = fresh_copy(network(0, CONV), gen(1)).eval().requires_grad_(False)
    missed, usual = (float((head(images) - sent).square().mean() / sent.var()) for head in (guess.head, untrained))
    assert missed < 0.1
    assert usual > 0.5


def test_no_head_is_stolen_where_the_tail_is_missing() -> None:
    view = replace(blank_view(pictures(2)), cut_shapes=((6, 12, 12), (20,)), cuts=("conv1", "fc1"))
    with pytest.raises(NotSupported, match="from the cut fc1 on"):
        ATTACKS.build("unsplit-functionality", steps=1).run(view, gen())


@pytest.mark.parametrize(("mode", "cut"), [(Mode.SPLITFED, "conv2"), (Mode.U_SHAPED, "pool1..fc1")])
def test_it_runs_in_the_engine(mode: Mode, cut: str) -> None:
    session = train(toys.lenet(), toys.data(2), mode=mode, cut=cut, training=Training(epochs=2, batch_size=8))
    attack = ATTACKS.build("unsplit", steps=10, warm_up=5)
    for phase in ("training", "query"):
        view = session.view(attack, phase=phase)
        assert view.granted == ENOUGH
        images = attack.run(view, gen()).images
        assert images is not None
        assert images.shape == (len(view.ids), 1, 8, 8)
        assert bool(torch.isfinite(images).all())


def test_the_smoothest_mixture_is_found_among_rough_ones() -> None:
    """Three maps, one of them smooth, mixed by a matrix that nobody knows."""
    x = nn.functional.interpolate(torch.rand(6, 1, 3, 3, generator=gen()), size=16, mode="bilinear") ** 3
    rough = torch.randn(6, 2, 16, 16, generator=gen(1))
    mixed = torch.einsum("ab,nbhw->nahw", torch.randn(3, 3, generator=gen(2)), torch.cat([x, rough], 1))
    found = first_images(mixed, (1, 16, 16), share=0.0, generator=gen())
    wanted = stretched(x, 0.0)
    assert min(float((found - one).abs().max()) for one in (wanted, 1 - wanted)) < 0.05  # in either sign
    colour = first_images(mixed, (3, 32, 32), share=0.0, generator=gen())
    assert colour.shape == (6, 3, 32, 32)
    assert torch.equal(colour[:, 0], colour[:, 2])


def test_of_pictures_and_negatives_those_with_darker_margins_are_taken() -> None:
    """Pictures with bright margins come back as negatives: nothing in smashed data says otherwise."""
    x = pictures(8)
    settings = {"steps": 60, "warm_up": 40, "clones": 1}
    assert margin(x) < 0.4
    for truth, shown in ((x, x), (1 - x, x)):
        images = run(blank_view(truth), **settings).images
        assert images is not None
        assert margin(images) < 0.5
        assert float(ssim(images, shown).mean()) > float(ssim(1 - images, shown).mean()) + 0.5


def test_the_margin_is_the_outer_sixth() -> None:
    framed = torch.zeros(2, 1, 12, 6)
    framed[:, :, :2], framed[:, :, -2:], framed[..., :1], framed[..., -1:] = 1, 1, 1, 1
    assert margin(framed) == 1
    assert margin(1 - framed) == 0
    assert 0 < margin(framed.roll(1, 2)) < 1


def test_stretching_sets_the_range_of_all_pixels_together() -> None:
    pixels = torch.arange(100.0).view(4, 1, 5, 5)
    assert torch.equal(stretched(pixels, 0.0), pixels / 99)
    held = stretched(pixels, 0.1)
    assert int((held == 0).sum()) == int((held == 1).sum()) == 11
    assert torch.allclose(stretched(3 * pixels + 7, 0.1), held)
    assert not stretched(torch.full((2, 1, 3, 3), 0.7), 0.1).any()


def test_constant_maps_start_from_nothing() -> None:
    assert not first_images(torch.full((3, 4, 6, 6), 0.7), (1, 12, 12), share=0.03, generator=gen()).any()


def test_inputs_that_are_no_images_are_refused() -> None:
    with pytest.raises(BadSetting, match="of images"):
        first_images(torch.rand(2, 5), (7,), share=0.0, generator=gen())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "unsplit: steps must be at least 1; got 0"),
        ({"warm_up": -1}, "warm_up must be at least 0"),
        ({"clones": 0}, "clones must be at least 1"),
        ({"tv": -0.1}, "tv must be at least 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"clone_lr": -1.0}, "clone_lr must be positive"),
        ({"share": 0.5}, r"share must lie in \[0, 0.5\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        ATTACKS.build("unsplit", **settings)


def test_the_two_names_share_their_settings() -> None:
    one, other = ATTACKS.build("unsplit"), ATTACKS.build("unsplit-functionality")
    assert isinstance(one, Unsplit)
    assert other.threat == one.threat
