# SPDX-License-Identifier: Apache-2.0
"""The blind guess: each kind wins where it should, and victims play no part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import lfw_subset
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics import Blind, blind_images, ssim


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(seed, "test blind"))


def noisy(image: Tensor, n: int, noise: float, seed: int = 0) -> Tensor:
    return (image + noise * normal(n, *image.shape, seed=seed)).clamp(0, 1)


PATTERN = torch.sin(torch.arange(144.0)).view(1, 12, 12) * 0.3 + 0.5


def test_the_mean_wins_where_images_are_one_pattern_and_noise() -> None:
    noise = torch.rand(60, 1, 12, 12, generator=seeding.generator(0, "test uniform"))
    aux = PATTERN + 0.4 * noise - 0.2  # of a uniform sample the median varies three times as much as the mean
    found = blind_images(aux, n=3)
    assert found.kind == "mean"
    assert found.images.shape == (3, 1, 12, 12)
    torch.testing.assert_close(found.images, aux.mean(0).expand(3, 1, 12, 12))  # of all images, not of one half
    assert set(found.ssim_on_aux) == {"mean", "median", "single image"}
    assert max(found.ssim_on_aux.values()) == found.ssim_on_aux["mean"]


def test_the_median_wins_where_some_images_are_spoilt() -> None:
    aux = noisy(PATTERN, 61, 0.02)
    aux[::5] = 0
    for some in (aux, aux[1:]):  # an odd and an even number of images
        found = blind_images(some, n=2)
        assert found.kind == "median"
        np.testing.assert_allclose(found.images[0].numpy(), np.median(some.numpy(), axis=0), atol=1e-7)


def test_the_single_image_wins_where_the_average_is_no_image() -> None:
    """One image in four shows the same pattern and the others nothing in common: mean and median are mostly mud."""
    aux = torch.rand(160, 1, 12, 12, generator=seeding.generator(0, "test singles"))
    aux[::4] = noisy(aux[0], 40, 0.01)
    found = blind_images(aux, n=1)
    assert found.kind == "single image"
    [index] = [i for i in range(160) if torch.equal(aux[i], found.images[0])]  # an auxiliary image, not a mixture
    assert index % 4 == 0


def test_the_class_mean_wins_where_the_view_has_labels() -> None:
    patterns = normal(3, 1, 12, 12).mul(0.3).add(0.5).clamp(0, 1)
    labels = torch.arange(90) % 3
    aux = (patterns[labels] + 0.05 * normal(90, 1, 12, 12, seed=1)).clamp(0, 1)
    victims = torch.tensor([2, 0, 2, 1])
    found = blind_images(aux, labels, labels_known=victims)
    assert found.kind == "class mean"
    for image, label in zip(found.images, victims, strict=True):
        torch.testing.assert_close(image, aux[labels == label].mean(0))
    without = blind_images(aux, labels, n=4)
    assert without.kind != "class mean"
    assert without.ssim_on_aux == {kind: found.ssim_on_aux[kind] for kind in without.ssim_on_aux}
    unseen = blind_images(aux, labels, labels_known=torch.tensor([0, 9]))
    torch.testing.assert_close(unseen.images[1], aux.mean(0))


def test_on_faces_the_auxiliary_images_must_be_drawn_as_the_victims_are() -> None:
    """A blind guess made from faces and other patches is far worse at faces than one made from faces."""
    images = torch.from_numpy(lfw_subset()).float()[:, None]
    aux, victims = torch.cat([images[:50], images[100:150]]), images[50:100]
    mixed, faces = blind_images(aux, n=50), blind_images(images[:50], n=50)
    told = blind_images(aux, torch.tensor([1] * 50 + [0] * 50), labels_known=torch.ones(50, dtype=torch.int64))
    reached = [float(ssim(blind.images, victims).mean()) for blind in (mixed, faces, told)]
    assert reached == pytest.approx([0.257, 0.386, 0.386], abs=0.002)  # scikit-image gives these for the mean images
    assert (mixed.kind, faces.kind, told.kind) == ("mean", "mean", "class mean")


def test_one_seed_one_answer_and_global_randomness_is_left_alone(
    rng_untouched: Callable[[], AbstractContextManager[None]],
) -> None:
    aux = noisy(PATTERN, 200, 0.3)
    with rng_untouched():
        first, second = blind_images(aux, n=1, seed=4), blind_images(aux, n=1, seed=4)
    assert first.ssim_on_aux == second.ssim_on_aux
    assert torch.equal(first.images, second.images)
    assert blind_images(aux, n=1, seed=5).ssim_on_aux != first.ssim_on_aux


def test_two_images_are_enough_and_one_is_not() -> None:
    assert isinstance(blind_images(noisy(PATTERN, 2, 0.1), n=1), Blind)
    with pytest.raises(BadSetting, match="judged on the other; got 1"):
        blind_images(noisy(PATTERN, 1, 0.1), n=1)


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (None, {}, "both or neither"),
        (torch.zeros(4, dtype=torch.int64), {"n": 1, "labels_known": torch.tensor([0])}, "both or neither"),
        (None, {"n": 0}, "at least 1; got 0"),
        (None, {"labels_known": torch.tensor([0])}, "aux_labels=None"),
        (torch.zeros(3, dtype=torch.int64), {"labels_known": torch.tensor([0])}, "got 3 for 4 images"),
        (torch.zeros(4), {"labels_known": torch.tensor([0])}, "auxiliary labels must be .* whole numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(labels: Tensor | None, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        blind_images(noisy(PATTERN, 4, 0.1), labels, **more)
