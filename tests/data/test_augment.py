# SPDX-License-Identifier: Apache-2.0
"""Augmentation does nothing when told nothing, and what a slow loop does otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from splitguard.data import augment
from splitguard.errors import BadSetting, UnknownName

IMAGES = torch.rand(500, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1  # no zeros but padding


def gen(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("how", [None, {}, {"flip": False}, {"flip": False, "crop": 0}])
def test_the_null_setting_changes_no_bit_and_draws_nothing(how: dict[str, Any] | None) -> None:
    fresh = gen()
    before = fresh.get_state()
    assert torch.equal(augment(IMAGES, how, fresh), IMAGES)
    assert torch.equal(fresh.get_state(), before)


def test_half_of_the_images_are_mirrored() -> None:
    out = augment(IMAGES, {"flip": True}, gen())
    kept = (out == IMAGES).flatten(1).all(1)
    mirrored = (out == IMAGES.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert abs(float(mirrored.float().mean()) - 0.5) < 4 * 0.5 / 500**0.5  # four standard errors


def test_a_crop_is_a_window_of_the_padded_image_and_all_windows_come_up() -> None:
    crop, seen = 2, set()
    out = augment(IMAGES, {"crop": crop}, gen())
    padded = torch.zeros(500, 3, 10, 9)
    padded[:, :, 2:8, 2:7] = IMAGES
    for image, big in zip(out, padded, strict=True):
        windows = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, big[:, y : y + 6, x : x + 5])]
        assert len(windows) == 1
        seen.add(windows[0])
    # 500 draws from 25 windows miss a given one with probability 1.4e-9.
    assert len(seen) == 25


def test_flip_and_crop_come_together_and_stay_in_range() -> None:
    out = augment(IMAGES, {"flip": True, "crop": 1}, gen())
    assert out.shape == IMAGES.shape
    assert out.dtype == IMAGES.dtype
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    flipped = augment(IMAGES, {"flip": True}, gen())
    both = gen()
    torch.rand(500, generator=both)  # the flips are drawn first
    assert torch.equal(out, augment(flipped, {"crop": 1}, both))


def test_a_row_depends_neither_on_the_other_rows_nor_on_who_is_kept() -> None:
    others = IMAGES.clone()
    others[1:] = 0.5
    keep = torch.zeros(500, dtype=torch.bool)
    keep[10:20] = True
    how = {"flip": True, "crop": 2}
    plain, changed, kept = (
        augment(IMAGES, how, gen()),
        augment(others, how, gen()),
        augment(IMAGES, how, gen(), keep=keep),
    )
    assert torch.equal(plain[0], changed[0])
    assert torch.equal(kept[10:20], IMAGES[10:20])
    assert torch.equal(kept[~keep], plain[~keep])
    assert not torch.equal(plain[10:20], IMAGES[10:20])


def test_the_generator_decides_and_nothing_else(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    how, before = {"flip": True, "crop": 2}, IMAGES.clone()
    with rng_untouched():
        first = augment(IMAGES, how, gen())
    assert torch.equal(first, augment(IMAGES, how, gen()))
    assert not torch.equal(first, augment(IMAGES, how, gen(2)))
    assert torch.equal(IMAGES, before), "the inputs are the caller's"


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"flipp": True}, UnknownName, "unknown augmentation 'flipp'. Did you mean 'flip'"),
        ({"flip": 1}, BadSetting, "flip must be true or false; got 1"),
        ({"crop": -1}, BadSetting, "crop must be a whole number of pixels, 0 or more; got -1"),
        ({"crop": True}, BadSetting, "got True"),
    ],
)
def test_bad_settings_are_refused(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        augment(IMAGES, how, gen())


def test_rows_of_a_table_cannot_be_flipped() -> None:
    with pytest.raises(BadSetting, match=r"need images \(N, C, H, W\); got \(4, 7\)"):
        augment(torch.zeros(4, 7), {"flip": True}, gen())
