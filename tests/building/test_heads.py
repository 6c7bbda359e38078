# SPDX-License-Identifier: Apache-2.0
"""Many heads called as one against a loop; and BatchNorm, whose statistics in training are those of the batch."""

from __future__ import annotations

import torch
from torch import nn

from splitguard.api import Phase
from splitguard.building.heads import Heads, spread
from tests.attacks.views import convs, network, sent_view, smooth


def test_heads_called_as_one_equal_a_loop() -> None:
    made = convs(4)
    at = torch.tensor([2, 0, 3, 0, 1, -1])
    x = smooth(6)
    heads = Heads(sent_view(x[:1], made, [[0]]))
    loop = torch.cat([made[int(h)](x[i : i + 1]) for i, h in enumerate(at)])
    assert torch.allclose(heads.all_at(at)(x), loop, atol=1e-5)
    assert torch.equal(heads.all_at(torch.tensor([1] * 6))(x), made[1](x))
    assert torch.equal(heads.all_at(torch.tensor([-1] * 6))(x), made[3](x))
    assert torch.equal(heads.through(1, x), made[1](x))


def test_gradients_through_heads_called_as_one_equal_a_loop() -> None:
    made, x = convs(3), smooth(3).requires_grad_()
    heads = Heads(sent_view(smooth(1), made, [[0]]))
    (one,) = torch.autograd.grad(heads.all_at(torch.tensor([0, 1, 2]))(x).square().sum(), x)
    loop = torch.cat([torch.autograd.grad(made[i](x[i : i + 1]).square().sum(), x)[0][i : i + 1] for i in range(3)])
    assert torch.allclose(one, loop, atol=1e-5)


def normed(seed: int) -> nn.Sequential:
    """A head with BatchNorm, whose running statistics are far from those of any data."""
    made = network(seed, (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()))
    norm = made[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean += 3
    return made


def test_while_a_head_with_batchnorm_is_trained_its_statistics_are_those_of_a_batch() -> None:
    """The auxiliary rows as the batch: what the heads make of them is what BatchNorm in train mode makes."""
    made, aux = [normed(0), normed(1)], smooth(60, seed=50)
    view = sent_view(smooth(2), made, [[0], [1]], aux=aux, phase=Phase.TRAINING)
    expected = made[0].train()(aux)
    made[0].eval()
    # The running variance divides by one row less than BatchNorm does in training: 1 part in 60 * 64 of a few units.
    assert torch.allclose(Heads(view).at(0)(aux), expected, atol=2e-3)
    assert not torch.allclose(made[0](aux), expected, atol=0.1)


def test_deployed_heads_and_frozen_ones_keep_their_statistics() -> None:
    made, x = [normed(0), normed(1)], smooth(3)
    query = sent_view(x, made, [[0], [1], [1]])
    assert torch.equal(Heads(query).at(0)(x), made[0](x))
    frozen = sent_view(x, [made[1]], [[0], [0], [0]], phase=Phase.TRAINING)
    assert torch.equal(Heads(frozen).at(0)(x), made[1](x))


def test_the_view_keeps_its_head() -> None:
    made, x = [normed(0), normed(1)], smooth(3)
    before = [v.clone() for v in made[0].state_dict().values()]
    Heads(sent_view(x, made, [[0], [1], [1]], phase=Phase.TRAINING)).at(0)
    assert all(torch.equal(a, b) for a, b in zip(before, made[0].state_dict().values(), strict=True))


def test_rows_are_spread_evenly() -> None:
    assert spread(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert spread(torch.arange(3), 9).tolist() == [0, 1, 2]
