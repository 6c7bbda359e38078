# SPDX-License-Identifier: Apache-2.0
"""Pilots and inverses: linear, of the right shapes, and able to keep an image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitguard.building.learners import Learners
from splitguard.building.pilots import make_pilot
from splitguard.errors import BadSetting
from tests.attacks.views import gen, smooth

CASES = [
    ((1, 25, 25), (8, 25, 25)),
    ((1, 25, 25), (8, 12, 12)),
    ((3, 32, 32), (64, 4, 4)),
    ((1, 28, 28), (16, 14, 14)),
    ((1, 28, 28), (120,)),
    ((1, 25, 25), (6, 5)),
    ((1, 3, 3), (2, 6, 6)),
]


@pytest.mark.parametrize(("image", "cut"), CASES)
def test_shapes_and_linearity(image: tuple[int, ...], cut: tuple[int, ...]) -> None:
    pilot, inverse = make_pilot(image, cut, width=4, generator=gen())
    x, y = (torch.randn(2, *image, generator=gen(s)) for s in (1, 2))
    codes = pilot(x)
    assert codes.shape == (2, *cut)
    torch.testing.assert_close(pilot(x + y), codes + pilot(y) - pilot(torch.zeros_like(x)), rtol=1e-4, atol=1e-5)
    out = inverse(codes)
    assert out.shape == (2, *image)
    assert float(out.detach().abs().max()) <= 1


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12))
def test_any_two_maps_will_do(height: int, width: int, rows: int, columns: int) -> None:
    pilot, inverse = make_pilot((1, height, width), (2, rows, columns), width=2, generator=gen())
    assert inverse(pilot(torch.zeros(1, 1, height, width))).shape == (1, 1, height, width)


def test_the_floor_makes_codes_like_those_after_a_relu() -> None:
    pilot, _ = make_pilot((1, 8, 8), (4, 8, 8), width=4, generator=gen())
    x = 2 * smooth(3) - 1
    free = pilot(x)
    assert float(free.detach().min()) < 0
    pilot.floor.zero_()
    assert torch.equal(pilot(x), free.clamp(min=0))


def test_a_code_narrower_than_the_image_keeps_what_it_can() -> None:
    """12 numbers for images made of 9: little is lost."""
    x = 2 * torch.nn.functional.interpolate(torch.rand(64, 1, 3, 3, generator=gen()), size=(8, 8), mode="bilinear") - 1
    pilot, inverse = make_pilot((1, 8, 8), (12,), width=8, generator=gen())
    nets = Learners({"pilot": (pilot, 1e-2), "inverse": (inverse, 1e-2)})
    for _ in range(150):
        loss = (inverse(pilot(x)) - x).square().mean()
        nets.learn((loss, "pilot"), (loss, "inverse"))
    assert float(loss.detach()) < 0.1 * float(x.var(0).mean())


def test_only_images_are_encoded() -> None:
    with pytest.raises(BadSetting, match=r"images \(C, H, W\); this task's inputs have shape \(7,\)"):
        make_pilot((7,), (3,), width=4, generator=gen())
    with pytest.raises(BadSetting, match="width must be at least 1; got 0"):
        make_pilot((1, 8, 8), (3,), width=0, generator=gen())
