# SPDX-License-Identifier: Apache-2.0
"""Re-identification: exact nulls, ties in parts, distances against a slow reference."""

from __future__ import annotations

import pytest
import torch

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics.reid import pixel_distances, squared_distances, top1_hits


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeding.generator(seed, "test reid"))


def test_ties_count_in_parts() -> None:
    distances = torch.tensor(
        [
            [0.0, 1.0, 2.0, 3.0],  # its own alone
            [0.5, 0.5, 0.5, 9.0],  # one of three
            [0.0, 1.0, 1.0, 1.0],  # another one
            [2.0, 2.0, 2.0, 2.0],  # one of four
        ]
    )
    assert top1_hits(distances).tolist() == [1, pytest.approx(1 / 3), 0, 0.25]


def test_guesses_that_are_all_alike_are_at_chance_exactly() -> None:
    truth = rand(9, 1, 6, 6)
    one = rand(1, 1, 6, 6, seed=1)
    assert float(top1_hits(pixel_distances(one.expand_as(truth), truth)).mean()) == pytest.approx(1 / 9, abs=1e-15)


def test_equal_victims_share_the_hit_and_a_larger_gallery_can_take_it() -> None:
    truth = rand(3, 1, 6, 6)
    twins = torch.stack([truth[0], truth[0], truth[2]])
    assert top1_hits(pixel_distances(twins, twins)).tolist() == [0.5, 0.5, 1]
    guess = truth * 0.9
    distractors = torch.cat([truth, guess[:1]])
    assert top1_hits(pixel_distances(guess, distractors)).tolist() == [0, 1, 1]


def test_distances_are_their_definition() -> None:
    guess, gallery = rand(4, 3, 5, 7), rand(6, 3, 5, 7, seed=1)
    expected = torch.tensor(
        [[float((g.double() - t.double()).square().mean()) for t in gallery] for g in guess], dtype=torch.float64
    )
    torch.testing.assert_close(pixel_distances(guess, gallery), expected)
    torch.testing.assert_close(
        squared_distances(guess.flatten(1), gallery.flatten(1)),
        torch.cdist(guess.flatten(1).double(), gallery.flatten(1).double()).square(),
    )
    assert float(squared_distances(guess.flatten(1), guess.flatten(1)).min()) >= 0


def test_what_is_no_distance_matrix_is_refused() -> None:
    for shape in ((3, 2), (3,), (0, 4)):
        with pytest.raises(BadSetting, match="1 <= N <= M"):
            top1_hits(torch.zeros(shape))
    with pytest.raises(BadSetting, match="finite"):
        top1_hits(torch.full((2, 2), torch.nan))
