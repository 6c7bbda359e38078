# SPDX-License-Identifier: Apache-2.0
"""Networks in training: which of them a loss moves, and that nothing is lost with a kill."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from splitguard.building.learners import Learners, rows_of, seeded
from tests.attacks.views import gen, network


def pair(lr: float = 0.1) -> Learners:
    made = {n: network(seed, [nn.Linear(3, 3)]).train().requires_grad_(True) for seed, n in enumerate(("one", "two"))}
    return Learners({name: (net, lr) for name, net in made.items()})


def copied(learners: Learners) -> dict[str, Any]:
    return {name: {k: v.clone() for k, v in learners[name].state_dict().items()} for name in ("one", "two")}


def moved(learners: Learners, before: dict[str, Any]) -> set[str]:
    after = copied(learners)
    return {n for n in before if any(not torch.equal(before[n][k], after[n][k]) for k in before[n])}


X = torch.randn(4, 3, generator=gen())


def test_a_loss_moves_the_network_beside_it_alone() -> None:
    nets = pair()
    before = copied(nets)
    nets.learn((nets["two"](nets["one"](X)).square().mean(), "two"))
    assert moved(nets, before) == {"two"}
    assert all(p.grad is None for name in ("one", "two") for p in nets[name].parameters())
    assert nets.steps == 1


def test_all_gradients_are_taken_before_any_step() -> None:
    """One after the other, the second would see what the first step left of the network that it goes through."""
    nets, reference = pair(), pair()
    nets.learn((nets["one"](X).square().mean(), "one"), (nets["two"](nets["one"](X)).square().mean(), "two"))
    one, two = reference["one"], reference["two"]
    slow = torch.optim.Adam(two.parameters(), lr=0.1)
    torch.autograd.backward(two(one(X)).square().mean())
    slow.step()
    for ours, theirs in zip(nets["two"].parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert nets.steps == 2


def test_what_is_loaded_goes_on_to_the_same_bits() -> None:
    def step(nets: Learners) -> None:
        nets.learn((nets["two"](nets["one"](X)).square().mean(), "one"), (nets["two"](X).square().mean(), "two"))

    whole, second = pair(), pair(lr=0.1)
    for _ in range(3):
        step(whole)
    second.load_state_dict(whole.state_dict())
    step(second)
    step(whole)
    assert moved(second, copied(whole)) == set()
    assert second.steps == whole.steps == 8


def test_another_precision_reaches_networks_and_optimizers() -> None:
    nets = pair()
    nets.learn((nets["one"](X).square().mean(), "one"))
    nets["one"].double()  # as when one of them comes from a session in float64
    nets.to(X.double())
    nets.learn((nets["two"](nets["one"](X.double())).square().mean(), "one"), (nets["two"](X.double()).mean(), "two"))
    assert {p.dtype for name in ("one", "two") for p in nets[name].parameters()} == {torch.float64}


def test_dropout_draws_from_the_generator() -> None:
    layer, ones = nn.Dropout(0.5), torch.ones(100)
    drawn = []
    for seed in (0, 0, 1):
        with seeded(gen(seed), ones):
            drawn.append(layer(ones))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("total", "count"), [(10, 10), (10, 4), (3, 8)])
def test_rows_repeat_only_where_they_must(total: int, count: int) -> None:
    rows = rows_of(total, count, gen())
    assert len(rows) == count
    assert 0 <= int(rows.min()) <= int(rows.max()) < total
    if count <= total:
        assert len(rows.unique()) == count
