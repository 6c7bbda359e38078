# SPDX-License-Identifier: Apache-2.0
"""The simulated attacker: what it answers at first, that it learns, and that nothing else moves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from splitguard.building.simulated_attacker import SimulatedAttacker, mean_image
from splitguard.errors import BadSetting

SHAPE = (1, 8, 8)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacker(cut: tuple[int, ...] = (2, 4, 4), around: float = 0.25) -> SimulatedAttacker:
    return SimulatedAttacker(cut, SHAPE, around=torch.full(SHAPE, around), width=8, blocks=1, lr=1e-2, generator=gen())


def pairs(cut: tuple[int, ...] = (2, 4, 4)) -> tuple[Tensor, Tensor]:
    """Smashed data, and images that follow from them."""
    smashed = torch.rand(32, *cut, generator=gen(1))
    bright = smashed.flatten(1)[:, :8].mean(1)
    return smashed, bright.view(-1, 1, 1, 1).expand(-1, *SHAPE).clone()


@pytest.mark.parametrize("cut", [(2, 4, 4), (12,)])
def test_it_begins_with_the_public_image_and_learns_better(cut: tuple[int, ...]) -> None:
    one, (smashed, images) = attacker(cut), pairs(cut)
    torch.testing.assert_close(one.images(smashed), torch.full((32, *SHAPE), 0.25), rtol=1e-6, atol=1e-6)
    before = float(mse_loss(one.images(smashed), images))
    for _ in range(60):
        one.learn(smashed, images, mse_loss)
    assert float(mse_loss(one.images(smashed), images)) < 0.3 * min(before, float(images.var()))


def test_only_learning_moves_it_and_only_smashed_data_get_a_gradient() -> None:
    one, (smashed, images) = attacker(), pairs()
    one.learn(smashed, images, mse_loss)
    before = {k: v.clone() for k, v in one.net.state_dict().items()}
    leaf = smashed.clone().requires_grad_()
    mse_loss(one.images(leaf), images).backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.abs().sum() > 0)
    assert all(p.grad is None for p in one.net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in one.net.state_dict().items())
    moved = smashed.clone().requires_grad_()
    one.learn(moved, images, mse_loss)
    assert moved.grad is None


def test_a_head_cannot_get_rid_of_it_by_scaling() -> None:
    (smashed, images), found = pairs(), []
    for scale in (1.0, 1e-3):
        one = attacker()
        for _ in range(5):
            one.learn(scale * smashed, images, mse_loss)
        found.append(one.images(scale * smashed))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    one, (smashed, images) = attacker(), pairs()
    for _ in range(3):
        one.learn(smashed, images, mse_loss)
    twin = attacker(around=0.9)
    twin.load_state_dict(one.state_dict())
    twin.net.load_state_dict(one.net.state_dict())
    for each in (one, twin):
        each.learn(smashed[:5], images[:5], mse_loss)
    assert torch.equal(one.images(smashed), twin.images(smashed))


def test_a_single_row_and_a_wider_type_are_met() -> None:
    one, (smashed, images) = attacker(), pairs()
    one.learn(smashed[:1].double(), images[:1].double(), mse_loss)
    assert bool(torch.isfinite(one.images(smashed[:1].double())).all())


def test_without_auxiliary_images_it_begins_at_mid_grey() -> None:
    assert torch.equal(mean_image(torch.zeros(0, *SHAPE), SHAPE), torch.full(SHAPE, 0.5))
    assert torch.equal(mean_image(torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)]), SHAPE), torch.full(SHAPE, 0.5))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(BadSetting, match="decoders make images"):
        SimulatedAttacker((3,), (5,), around=torch.zeros(5), width=4, blocks=0, lr=0.1, generator=gen())
