# SPDX-License-Identifier: Apache-2.0
"""Scores of images: exact nulls, definitions recomputed with other libraries, and what is missing stays empty."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting, DataUnavailable
from splitguard.metrics import (
    Blind,
    ImageScore,
    MetricMissing,
    lpips,
    lpips_available,
    score_images,
)

needs_weights = pytest.mark.skipif(not lpips_available(), reason="no AlexNet weights; `splitguard fetch lpips`")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeding.generator(seed, "test score"))


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(images: Tensor) -> Tensor:
        raise DataUnavailable("no weights; fetch them")

    monkeypatch.setattr("splitguard.metrics.score.lpips_embedding", refuse)


def quiet(guess: Tensor, truth: Tensor, blind: Blind, gallery: Tensor | None = None, seed: int = 0) -> ImageScore:
    with pytest.warns(MetricMissing):
        return score_images(guess, truth, blind, gallery=gallery, seed=seed)


def skimage_ssim(guess: Tensor, truth: Tensor) -> list[float]:
    return [
        structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            data_range=1,
            use_sample_covariance=False,
            channel_axis=0,
        )
        for a, b in zip(guess, truth, strict=True)
    ]


TRUTH = rand(24, 1, 16, 16)
BLIND = Blind("mean", TRUTH.mean(0, keepdim=True).expand_as(TRUTH))
NOISE = torch.linspace(0.05, 1.5, 24).view(24, 1, 1, 1)  # from nearly exact to worthless
GUESS = (TRUTH + NOISE * torch.randn(TRUTH.shape, generator=seeding.generator(0, "test noise"))).clamp(0, 1)


@needs_weights
def test_the_truth_scores_one_in_everything() -> None:
    s = score_images(TRUTH, TRUTH, BLIND)
    assert (s.leakage, s.leakage_low, s.leakage_high, s.leakage_p95) == (1, 1, 1, 1)
    assert (s.ssim, s.mse, s.psnr, s.recovered, s.recovered_high) == (1, 0, 100, 1, 1)
    assert (s.reid_pixel, s.reid_lpips, s.reid) == (1, 1, 1)
    assert s.lpips == pytest.approx(0, abs=1e-6)
    assert s.mismatched is not None
    assert s.mismatched < 0.2


@needs_weights
def test_the_blind_guess_scores_zero_and_is_at_chance() -> None:
    s = score_images(BLIND.images, TRUTH, BLIND)
    assert (s.leakage, s.leakage_low, s.leakage_high) == (0, 0, 0)
    assert s.ssim == s.blind
    assert s.reid_pixel == pytest.approx(1 / 24, abs=1e-12)
    assert s.reid_lpips == pytest.approx(1 / 24, abs=1e-12)
    assert s.reid == pytest.approx(s.chance, abs=1e-12)


@needs_weights
def test_every_number_is_its_definition() -> None:
    s = score_images(GUESS, TRUTH, BLIND)
    ssims, blinds = skimage_ssim(GUESS, TRUTH), skimage_ssim(BLIND.images, TRUTH)
    b = float(np.mean(blinds))
    assert s.ssim == pytest.approx(np.mean(ssims), abs=1e-9)
    assert s.blind == pytest.approx(b, abs=1e-9)
    assert s.leakage == pytest.approx((np.mean(ssims) - b) / (1 - b), abs=1e-9)
    assert s.leakage_p95 == pytest.approx(np.quantile([(v - b) / (1 - b) for v in ssims], 0.95), abs=1e-9)
    share = sum(v >= 0.5 for v in ssims)
    assert 0 < share < 24
    assert s.recovered == share / 24
    assert s.recovered_high == pytest.approx(scipy.stats.binomtest(share, 24).proportion_ci(0.95, "exact").high)
    assert s.mismatched == pytest.approx(np.mean(skimage_ssim(GUESS, TRUTH.roll(1, dims=0))), abs=1e-9)
    assert s.lpips == pytest.approx(float(lpips(GUESS, TRUTH).mean()), abs=1e-6)
    for name, distance in (("reid_pixel", lambda g, t: (g - t).square().mean(dim=(1, 2, 3))), ("reid_lpips", lpips)):
        some = range(0, 24, 4)  # pair by pair LPIPS takes long
        hits = [float(int(distance(GUESS[i].expand_as(TRUTH), TRUTH).argmin()) == i) for i in some]
        assert s.per_victim[name][::4].tolist() == hits
    assert (s.ssim_window, s.n, s.blind_kind) == (11, 24, "mean")
    for name in ("ssim", "lpips", "psnr", "mse", "blind", "reid_pixel", "reid_lpips"):
        assert s.per_victim[name].shape == (24,)
        assert float(s.per_victim[name].mean()) == pytest.approx(getattr(s, name))


@pytest.mark.usefixtures("no_lpips")
def test_the_interval_is_the_paired_bootstrap_over_victims() -> None:
    s = quiet(GUESS, TRUTH, BLIND)
    ssims, blinds = np.array(skimage_ssim(GUESS, TRUTH)), np.array(skimage_ssim(BLIND.images, TRUTH))

    def leakage(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray((a.mean(axis=axis) - b.mean(axis=axis)) / (1 - b.mean(axis=axis)))

    theirs = scipy.stats.bootstrap(
        (ssims, blinds), leakage, paired=True, vectorized=True, n_resamples=20_000, method="percentile",
        rng=seeding.numpy_generator(1, "theirs"),
    ).confidence_interval  # fmt: skip
    assert s.leakage_low is not None
    assert s.leakage_high is not None
    assert s.leakage is not None
    assert s.leakage_low < s.leakage < s.leakage_high
    width = theirs.high - theirs.low
    assert abs(s.leakage_low - theirs.low) < 0.1 * width  # 2,000 resamples: 2 % of the width is one standard error
    assert abs(s.leakage_high - theirs.high) < 0.1 * width


@pytest.mark.usefixtures("no_lpips")
def test_leakage_is_signed() -> None:
    s = quiet(1 - TRUTH, TRUTH, BLIND)
    assert s.leakage is not None
    assert s.leakage < -0.1


@pytest.mark.usefixtures("no_lpips")
def test_missing_lpips_stays_empty_with_a_warning_that_helps() -> None:
    with pytest.warns(MetricMissing, match="stays empty.*fetch them") as caught:
        s = score_images(GUESS, TRUTH, BLIND)
    assert len(caught) == 1
    assert (s.lpips, s.reid_lpips) == (None, None)
    assert s.reid == s.reid_pixel
    assert "lpips" not in s.per_victim
    assert json.loads(json.dumps(s.as_dict()))["lpips"] is None


def test_images_that_lpips_is_not_defined_for_stay_empty_too() -> None:
    two = rand(4, 2, 12, 12)
    s = quiet(two, two, Blind("mean", two.mean(0, keepdim=True).expand_as(two)))
    assert (s.lpips, s.reid) == (None, 1)


@pytest.mark.usefixtures("no_lpips")
def test_one_victim_leaves_empty_what_one_victim_cannot_say() -> None:
    s = quiet(GUESS[:1], TRUTH[:1], Blind("mean", BLIND.images[:1]))
    assert (s.leakage_low, s.leakage_high, s.mismatched, s.reid, s.reid_pixel, s.chance) == (*[None] * 5, 1)
    assert s.leakage is not None
    in_gallery = quiet(GUESS[:1], TRUTH[:1], Blind("mean", BLIND.images[:1]), gallery=TRUTH[1:])
    assert (in_gallery.reid, in_gallery.chance) == (1, 1 / 24)


@pytest.mark.usefixtures("no_lpips")
def test_victims_who_are_all_alike_leave_no_room_for_leakage() -> None:
    same = TRUTH[:1].expand(5, 1, 16, 16)
    s = quiet(same, same, Blind("mean", same))
    assert (s.leakage, s.leakage_low, s.leakage_p95) == (None, None, None)
    assert s.reid == pytest.approx(0.2)


@pytest.mark.usefixtures("no_lpips")
def test_the_gallery_holds_more_people_to_tell_apart() -> None:
    few = quiet(GUESS[:8], TRUTH[:8], Blind("mean", BLIND.images[:8]))
    many = quiet(GUESS[:8], TRUTH[:8], Blind("mean", BLIND.images[:8]), gallery=torch.cat([TRUTH[8:], GUESS[:4]]))
    assert (few.reid, few.chance) == (1, 1 / 8)
    assert (many.reid, many.chance) == (0.5, 1 / 28)  # four of the guesses are in the gallery themselves


@pytest.mark.usefixtures("no_lpips")
def test_one_seed_one_score_and_global_randomness_is_left_alone(
    rng_untouched: Callable[[], AbstractContextManager[None]],
) -> None:
    with rng_untouched():
        first = quiet(GUESS, TRUTH, BLIND, seed=3)
    assert first == quiet(GUESS.clone().requires_grad_(), TRUTH, BLIND, seed=3)
    assert first.leakage_low != quiet(GUESS, TRUTH, BLIND, seed=4).leakage_low


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(BadSetting, match="one shape"):
        score_images(GUESS[:3], TRUTH, BLIND)
    with pytest.raises(BadSetting, match="one shape"):
        score_images(GUESS, TRUTH, Blind("mean", BLIND.images[:1]))
    with pytest.raises(BadSetting, match=r"gallery images must be \(1, 16, 16\); got \(1, 8, 8\)"):
        score_images(GUESS, TRUTH, BLIND, gallery=rand(2, 1, 8, 8))
    with pytest.raises(BadSetting, match="gallery must lie in"):
        score_images(GUESS, TRUTH, BLIND, gallery=TRUTH + 3)


@needs_weights
def test_sixty_four_images_take_well_under_three_seconds_of_one_thread() -> None:
    truth = rand(64, 1, 28, 28)
    blind = Blind("mean", truth.mean(0, keepdim=True).expand_as(truth))
    score_images(truth, truth, blind)  # imports and builds the network
    start = time.process_time()
    score_images(1 - truth, truth, blind)
    assert time.process_time() - start < 3
