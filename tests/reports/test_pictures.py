# SPDX-License-Identifier: Apache-2.0
"""The pictures on the page are the victims, pixel for pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from splitguard.errors import BadSetting
from splitguard.matrix import Record, Results
from splitguard.reports import gallery
from splitguard.reports.facts import Deployment
from splitguard.reports.pictures import BUDGET, LARGEST, SHOWN, Strip, affordable, strips
from tests.reports.cases import NASTY, VICTIMS

Arrays = Mapping[str, npt.NDArray[Any]]


class Kept(Results):
    """Results whose victims are given."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def victims(self, record: Record) -> dict[str, npt.NDArray[Any]] | None:
        return dict(self._arrays) or None


def pixels(strip: Strip) -> npt.NDArray[np.uint8]:
    """(H, W, channels with alpha)."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(strip.source.removeprefix("data:image/png;base64,")))) as picture:
        out = np.asarray(picture)
    assert (strip.height, strip.width) == out.shape[:2]
    return out


def strip_of(everyone: list[Deployment], arrays: Arrays) -> Strip:
    return next(strips(Kept(arrays), everyone[0]))


def test_truth_stands_above_guess_above_blind_guess_pixel_for_pixel(
    results: Results, everyone: list[Deployment]
) -> None:
    for strip in strips(results, everyone[0]):
        found, kept = pixels(strip), results.victims(strip.record)
        assert kept is not None
        for row, name in enumerate(("truth", "guess", "blind_guess")):
            for column in range(SHOWN):
                cell = found[26 * row : 26 * row + 26, 26 * column : 26 * column + 26]
                assert (cell[:25, :25, 0] == kept[name][column, 0]).all()
                assert (cell[:25, :25, 1] == 255).all()
                assert (cell[25, :, 1] == 0).all()  # the gap lets the page through
                assert (cell[:, 25, 1] == 0).all()


def test_each_finished_attack_and_phase_is_shown_once_from_the_first_seed(
    results: Results, everyone: list[Deployment]
) -> None:
    shown = [(s.record.cell.attack.name, s.record.phase, s.record.cell.seed) for s in strips(results, everyone[0])]
    assert sorted(shown) == [
        (attack, phase, 0) for attack in ("inverse-network", "white-box-inversion") for phase in ("query", "training")
    ]
    assert list(strips(results, everyone[16])) == []


def test_the_scores_below_are_the_shown_victims_own(results: Results, everyone: list[Deployment]) -> None:
    strip = next(strips(results, everyone[0]))
    kept = results.victims(strip.record)
    assert kept is not None
    assert [float(s) for s in strip.scores] == pytest.approx(list(kept["score_ssim"][:SHOWN]), abs=0.00501)
    assert strip.alt.count("0.") + strip.alt.count("1.0") >= SHOWN


def test_colours_stay(everyone: list[Deployment]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), dtype=np.uint8)
    found = pixels(strip_of(everyone, {"truth": images, "guess": images}))
    assert found.shape == (2 * 6, 2 * 8, 4)
    assert (found[:5, 8:15, :3] == images[1].transpose(1, 2, 0)).all()


def test_two_channels_are_shown_as_their_mean(everyone: list[Deployment]) -> None:
    images = np.stack([np.full((4, 4), 10), np.full((4, 4), 20)])[None].astype(np.uint8)
    assert (pixels(strip_of(everyone, {"truth": images, "guess": images}))[:4, :4, 0] == 15).all()


def test_large_pictures_are_reduced_to_block_means(everyone: list[Deployment]) -> None:
    tall = np.zeros((1, 1, 2 * LARGEST, 4), dtype=np.uint8)
    tall[:, :, ::2] = 100
    found = pixels(strip_of(everyone, {"truth": tall, "guess": tall}))
    assert found.shape[:2] == (2 * (LARGEST + 1), 3)
    assert (found[:LARGEST, :2, 0] == 50).all()


def test_a_page_of_large_pictures_shows_fewer_victims(results: Results, everyone: list[Deployment]) -> None:
    assert affordable(results, everyone) == SHOWN
    large = np.zeros((1, 3, 64, 64), dtype=np.uint8)
    shown = affordable(Kept({"truth": large, "guess": large}), everyone)
    strips_in_all = 15 * 4
    assert 2 < shown < SHOWN
    assert shown * strips_in_all * 4 * large.size <= BUDGET < (shown + 1) * strips_in_all * 4 * large.size
    assert affordable(Kept({"truth": large, "guess": large}), everyone * 100) == 2
    assert affordable(Kept({}), everyone) == SHOWN


def test_victims_that_are_no_images_are_left_out(everyone: list[Deployment]) -> None:
    rows = np.zeros((3, 8), dtype=np.uint8)
    assert list(strips(Kept({"truth": rows, "guess": rows}), everyone[0])) == []
    assert list(strips(Kept({}), everyone[0])) == []


def test_the_caption_leaves_what_is_missing_missing(results: Results, everyone: list[Deployment]) -> None:
    record = next(r for r in everyone[0].finished("inputs"))
    bare = replace(record, values={"n": VICTIMS})
    kept = results.victims(record)
    assert kept is not None
    caption = next(strips(Kept(kept), replace(everyone[0], records=(bare,)))).caption
    assert "leakage —, " in caption
    assert "0.00" not in caption


def test_a_gallery_is_html_with_names_escaped(results: Results) -> None:
    shown = gallery(results, deployment=1, attack="inverse-network", victims=2)
    assert shown._repr_html_() == shown
    assert shown.count("<img") == 2
    assert NASTY not in gallery(results)
    assert gallery(results, deployment=17) == "<p>No finished attack on inputs.</p>"


def test_a_gallery_of_nothing_is_refused(results: Results) -> None:
    with pytest.raises(BadSetting, match=r"deployment must be a number in 1\.\.17, as in table\(results\); got 18"):
        gallery(results, deployment=18)
    with pytest.raises(BadSetting, match="victims must be 1 or more; got 0"):
        gallery(results, victims=0)
