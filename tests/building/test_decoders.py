# SPDX-License-Identifier: Apache-2.0
"""Decoders of every cut: untrained they hand the guess back, and only their generator decides their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitguard.building.decoders import make_decoder
from splitguard.errors import BadSetting
from tests.attacks.views import gen

SIDES = st.integers(1, 30)


@settings(max_examples=25)
@given(
    cut=st.one_of(
        st.tuples(st.integers(1, 4), SIDES, SIDES), st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), SIDES)
    ),
    shape=st.tuples(st.integers(1, 3), st.integers(4, 30), st.integers(4, 30)),
    blocks=st.integers(0, 2),
)
def test_untrained_it_hands_the_guess_back(cut: tuple[int, ...], shape: tuple[int, int, int], blocks: int) -> None:
    decoder = make_decoder(cut, shape, width=3, blocks=blocks, generator=gen())
    smashed, guess = torch.randn(2, *cut), torch.rand(2, *shape)
    decoder.standardise(smashed)
    assert torch.equal(decoder(smashed, guess), guess)


@pytest.mark.parametrize("cut", [(4, 6, 6), (20,)])
def test_its_scale_does_not_depend_on_the_units_of_the_smashed_data(cut: tuple[int, ...]) -> None:
    """All that happens before the last layer sees standardised data."""
    decoder = make_decoder(cut, (1, 12, 12), width=3, blocks=1, generator=gen())
    torch.nn.init.ones_(decoder.leave.weight)
    smashed, guess = torch.randn(50, *cut, generator=gen(1)), torch.rand(50, 1, 12, 12, generator=gen(2))
    decoder.standardise(smashed)
    first = decoder(smashed, guess)
    assert not torch.allclose(first, guess)
    decoder.standardise(1e3 * smashed + 7)
    assert torch.allclose(decoder(1e3 * smashed + 7, guess), first, atol=1e-3)


def test_dead_units_do_not_divide_by_zero() -> None:
    decoder = make_decoder((3,), (1, 8, 8), width=2, blocks=0, generator=gen())
    smashed = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    decoder.standardise(smashed)
    assert bool(torch.isfinite(decoder(smashed, torch.zeros(2, 1, 8, 8))).all())


@pytest.mark.parametrize(
    ("cut", "rows"), [((3,), 1), ((1,), 1), ((2, 1, 1), 1), ((2, 1, 2), 1), ((3,), 5), ((2, 3, 3), 5)]
)
def test_a_single_row_is_standardised_without_nan(cut: tuple[int, ...], rows: int) -> None:
    """And what has a spread keeps it to the bit."""
    decoder = make_decoder(cut, (1, 8, 8), width=2, blocks=0, generator=gen())
    smashed = torch.randn(rows, *cut, generator=gen(1))
    decoder.standardise(smashed)
    assert bool(torch.isfinite(decoder(smashed, torch.zeros(rows, 1, 8, 8))).all())
    over = (0, 2, 3) if len(cut) == 3 else (0,)
    if smashed.numel() > cut[0]:
        least = 1e-3 * float(smashed.std()) + 1e-12
        assert torch.equal(decoder.std, smashed.std(over, keepdim=True).clamp(min=least))


def test_weights_come_from_the_generator_alone(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    with rng_untouched():
        one, two, other = (make_decoder((4,), (1, 8, 8), width=3, blocks=1, generator=gen(s)) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_it_makes_images_only() -> None:
    with pytest.raises(BadSetting, match="decoders make images"):
        make_decoder((4,), (10,), width=3, blocks=1, generator=gen())
