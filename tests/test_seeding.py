# SPDX-License-Identifier: Apache-2.0
"""Named streams are reproducible and apart; forks leave the global generators as they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from splitguard.seeding import derive, drawing, generator, numpy_generator, reseed

Guard = Callable[[], AbstractContextManager[None]]


def test_streams_depend_on_seed_and_every_name_and_nothing_else() -> None:
    seen = {derive(0), derive(1), derive(0, "a"), derive(0, "b"), derive(0, "a", 1), derive(0, "a1"), derive(0, 1, "a")}
    assert len(seen) == 7
    assert (
        derive(0, "order", 3, 1) == derive(0, "order", 3, 1) == 5541899528567219891
    )  # pinned: cached results depend on it
    assert all(0 <= s < 2**63 for s in seen)


def test_generators_repeat() -> None:
    one, two = generator(5, "x"), generator(5, "x")
    assert torch.equal(torch.rand(9, generator=one), torch.rand(9, generator=two))
    assert (numpy_generator(5, "x").random(9) == numpy_generator(5, "x").random(9)).all()


def test_drawing_forks_and_reseed_gives_each_layer_its_own_stream(rng_untouched: Guard) -> None:
    drop = nn.Dropout(0.5)
    x = torch.ones(64)

    def layer(name: str) -> torch.Tensor:
        reseed(name)
        out: torch.Tensor = drop(x)
        return out

    with rng_untouched():
        with drawing(3):
            first, other, again = layer("a"), layer("b"), layer("a")
        with drawing(3):
            alone = layer("b")
        with drawing(4):
            elsewhere = layer("b")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(other, alone)
    assert not torch.equal(other, elsewhere)


def test_drawing_restores_after_an_error_and_reseed_outside_does_nothing(rng_untouched: Guard) -> None:
    with rng_untouched():
        try:
            with drawing(3):
                raise RuntimeError
        except RuntimeError:
            reseed("a")
