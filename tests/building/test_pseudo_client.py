# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of unknown clients: they fit any two shapes, keep rows apart, and are drawn from the generator."""

from __future__ import annotations

import pytest
import torch

from splitguard.building.pseudo_client import make_client, make_tail

SHAPES = [
    ((1, 25, 25), (8, 25, 25)),
    ((3, 32, 32), (16, 8, 8)),
    ((1, 25, 25), (4, 12, 12)),
    ((1, 8, 8), (2, 16, 16)),
    ((1, 30, 9), (3, 7, 9)),
    ((1, 28, 28), (120,)),
    ((1, 3, 3), (5,)),
    ((20,), (7,)),
    ((20,), (2, 3, 3)),
    ((4, 6), (5,)),
]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("taken", "cut"), SHAPES, ids=str)
def test_any_two_shapes_are_joined_and_rows_are_kept_apart(taken: tuple[int, ...], cut: tuple[int, ...]) -> None:
    client = make_client(taken, cut, width=4, generator=gen())
    x = torch.rand(3, *taken, generator=gen(1))
    made = client(x)
    assert made.shape == (3, *cut)
    torch.testing.assert_close(client(x[:1])[0], made[0])
    gradients = torch.autograd.grad(made.square().sum(), list(client.parameters()))
    assert all(bool(g.any()) for g in gradients)  # no layer is out of use


@pytest.mark.parametrize("shape", [(16,), (4, 3, 3)])
def test_a_tail_makes_logits_of_features_of_any_shape(shape: tuple[int, ...]) -> None:
    tail = make_tail(shape, 5, width=8, generator=gen())
    assert tail(torch.rand(3, *shape, generator=gen(1))).shape == (3, 5)


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (make_client((1, 8, 8), (6,), width=4, generator=gen(s)).state_dict() for s in (0, 0, 1))
    tails = [make_tail((6,), 2, width=4, generator=gen(s)).state_dict() for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.equal(value, tails[1][name]) for name, value in tails[0].items())
    assert not all(torch.equal(value, tails[2][name]) for name, value in tails[0].items())
