# SPDX-License-Identifier: Apache-2.0
"""Moments of smashed data: those of the formula, at one place and over a distance."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from splitguard.building.moments import Moments
from tests.attacks.views import gen


def moment_gap(made: torch.Tensor, sent: torch.Tensor, *, reach: int = 0) -> torch.Tensor:
    return Moments.of(sent, reach).gap(made)


def test_moments_that_agree_are_no_gap_and_a_shift_or_a_scale_is_the_one_of_the_formula() -> None:
    sent = torch.randn(50, 3, 4, 4, generator=gen()).double()
    assert float(moment_gap(sent, sent)) == 0
    assert float(moment_gap(sent.flip(0), sent)) < 1e-20  # the order of rows is not looked at
    units = sent.flatten(2).transpose(1, 2).flatten(0, 1)
    spread = units.var(0, correction=0).mean()
    assert float(moment_gap(sent + 0.5, sent)) == pytest.approx(0.25 / float(spread))
    row = sent[:1].flatten(1)  # without a spread: in units of its mean square
    assert float(moment_gap(row + 0.5, row)) == pytest.approx(0.25 / float(row.square().mean()))
    mean = sent.mean(0)
    twice = float(moment_gap(2 * sent, sent))
    assert twice == pytest.approx(float(mean.square().mean() / spread) + 9)  # ||4C - C||^2 = 9 ||C||^2
    vectors = sent.flatten(1)[:, :5]
    assert float(moment_gap(vectors + 0.5, vectors)) == pytest.approx(0.25 / float(vectors.var(0, correction=0).mean()))


def test_covariances_over_a_distance_are_those_of_channels_at_places_so_far_apart() -> None:
    sent = torch.randn(50, 2, 6, 7, generator=gen()).double()
    made = torch.randn(40, 2, 6, 7, generator=gen()).double()

    def covariances(z: torch.Tensor) -> list[torch.Tensor]:
        out, inner = [], z[:, :, 1:-1, 1:-1].transpose(0, 1).flatten(1)
        for down, right in product((0, 1, 2), repeat=2):
            other = z[:, :, down : 4 + down, right : 5 + right].transpose(0, 1).flatten(1)
            both = torch.cat([inner, other])
            out.append(both.cov(correction=0)[2:, :2])
        return out

    own, theirs = covariances(made), covariances(sent)
    apart = sum(float((a - b).square().sum()) for a, b in zip(own, theirs, strict=True))
    size = sum(float(b.square().sum()) for b in theirs)
    means = (made.mean(0) - sent.mean(0)).square().mean() / theirs[4].diagonal().mean()
    assert float(moment_gap(made, sent, reach=1)) == pytest.approx(float(means) + apart / size)
    assert float(moment_gap(sent, sent, reach=2)) == 0
    assert torch.equal(moment_gap(made, sent, reach=9), moment_gap(made, sent, reach=2))  # of 6 places
    flat = sent.flatten(1)
    assert torch.equal(moment_gap(flat + 0.5, flat, reach=2), moment_gap(flat + 0.5, flat))


def test_they_tell_shapes_apart_that_one_place_does_not() -> None:
    white = torch.randn(400, 1, 8, 8, generator=gen()).double()
    smeared = (white + white.roll(1, 3)) / 2**0.5  # as much variance at a place, and half of it shared with the next
    assert float(moment_gap(smeared, white)) < 0.01
    assert float(moment_gap(smeared, white, reach=1)) == pytest.approx(0.5, abs=0.1)  # 2 * (1/2)^2
