# SPDX-License-Identifier: Apache-2.0
"""MixMatch against its formulas, against plain Adam, and where unlabelled rows must help."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from splitguard.building.completion import classifier
from splitguard.building.mixmatch import MixMatch, mixed, sharpened
from splitguard.metrics import accuracy
from tests.attacks.views import gen


def test_sharpening_is_a_power_of_the_probabilities() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]])
    by_hand = p ** (1 / 0.5) / (p ** (1 / 0.5)).sum()
    torch.testing.assert_close(sharpened(p, 0.5), by_hand)
    assert torch.equal(sharpened(p, 1.0), p)
    torch.testing.assert_close(sharpened(p, 0.01), torch.tensor([[1.0, 0.0, 0.0]]))


def test_a_share_of_one_mixes_nothing() -> None:
    one, other = torch.rand(3, 2, 4, 4, generator=gen()), torch.rand(3, 2, 4, 4, generator=gen(1))
    assert torch.equal(mixed(one, other, torch.ones(3)), one)
    half = mixed(one, other, torch.tensor([1.0, 0.5, 0.75]))
    torch.testing.assert_close(half[2], 0.75 * one[2] + 0.25 * other[2])


def same(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows


def trainer(**settings: Any) -> MixMatch:
    given = {
        "steps": 5,
        "lr": 0.1,
        "batch_size": 4,
        "temperature": 1.0,
        "alpha": 0.0,
        "unlabelled": 0.0,
        "average": 0.0,
    }
    return MixMatch(**(given | settings))


def test_without_mixing_and_unlabelled_rows_it_is_adam_on_cross_entropy() -> None:
    """Average 0 keeps the last weights alone; a batch of all four rows is the same in any order, up to rounding."""
    rows, labels = torch.randn(4, 3, generator=gen()), torch.tensor([0, 1, 1, 0])
    ours, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    reference.load_state_dict(ours.state_dict())
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(reference(rows), labels))
        optimizer.step()
    found, _ = trainer().fit(ours, rows, labels, rows[:0], classes=2, augment=same, generator=gen())
    for mine, other in zip(found.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_unlabelled_rows_move_the_border_into_the_gap_between_clusters() -> None:
    """Two labelled rows put the border half way, at 1.5; clusters around -2 and 2 want it near 0."""
    others = 0.6 * torch.randn(120, 1, generator=gen())
    truth = torch.arange(120) // 60
    others[:60] -= 2
    others[60:] += 2
    rows, labels = torch.tensor([[-0.5], [3.5]]), torch.tensor([0, 1])

    def border(unlabelled: float) -> tuple[float, float]:
        model = nn.Linear(1, 2)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        how = trainer(steps=400, lr=0.03, batch_size=16, temperature=0.5, unlabelled=unlabelled)
        found, _ = how.fit(model, rows, labels, others, classes=2, augment=same, generator=gen(3))
        assert isinstance(found, nn.Linear)
        with torch.no_grad():
            at = -(found.bias[1] - found.bias[0]) / (found.weight[1] - found.weight[0])
            return float(at), accuracy(found(others).argmax(1), truth)

    alone, helped = border(0.0), border(20.0)
    assert abs(helped[0]) < 0.5 < alone[0]
    assert helped[1] > alone[1]


def test_its_draws_come_from_the_generator_alone() -> None:
    rows, labels = torch.randn(6, 3, generator=gen()), torch.tensor([0, 1, 1, 0, 1, 0])
    before = torch.get_rng_state()
    how = trainer(alpha=0.75, unlabelled=1.0)

    def weights(seed: int) -> Tensor:
        model = nn.Sequential(classifier(3, 2, layers=2, generator=gen(seed)), nn.Dropout(0.5))
        found, _ = how.fit(model, rows, labels, rows, classes=2, augment=same, generator=gen(seed))
        return torch.cat([p.flatten() for p in found.parameters()])

    one = weights(0)
    assert torch.equal(one, weights(0))
    assert not torch.equal(one, weights(1))
    assert torch.equal(before, torch.get_rng_state())
