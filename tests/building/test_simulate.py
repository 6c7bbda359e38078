# SPDX-License-Identifier: Apache-2.0
"""The labels that a simulated client is trained on are those that the defense would state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Batch, Defense, OnlineAttack, View
from splitguard.building.shadow_training import ShadowTraining
from splitguard.building.simulate import abreast, as_released, as_stated, as_trained, ways
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.stack import Stack
from tests.attacks.streams import exchanges, stream_view, watch
from tests.attacks.views import gen, network, rows_of, smooth

HEAD = network(0, (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()))
BODY = network(1, (nn.Flatten(), nn.Linear(256, 2)))
TRUE = torch.arange(20) % 2
X, Y = smooth(8), torch.tensor([0, 0, 0, 1, 1, 0, 0, 1])
KEPT, SWAPPED = torch.eye(2).double(), torch.eye(2).double().flip(0)


class States(Defense):
    """Says of itself that labels go by a law."""

    def __init__(self, law: Tensor | None) -> None:
        self.law = law

    def label_law(self) -> Tensor | None:
        return self.law


def view_of(law: Tensor | None, labels: Tensor = TRUE, *, adaptive: bool = True) -> View:
    aux = replace(rows_of(smooth(20, seed=50)), labels=labels)
    view = stream_view(smooth(2), HEAD, aux, body=BODY, defense=States(law), adaptive=adaptive)
    return replace(view, models=replace(view.models, blank_head=lambda generator: fresh_copy(HEAD, generator)))


def learned(name: str, view: View, **settings: Any) -> list[Tensor]:
    """All that an attack has learned beside a session of one exchange."""
    attack = ATTACKS.build(name, **settings)
    assert isinstance(attack, OnlineAttack)
    watch(attack, view, exchanges(X, HEAD, size=8, labels=Y))
    kept = attack.state_dict()["nets"]
    clients = kept if isinstance(kept, list) else [kept]
    return [value.clone() for client in clients for value in client["nets"].values()]


def shadow(view: View) -> list[Tensor]:
    head = ShadowTraining(steps=4, lr=0.1, batch_size=8, moments=1.0, tries=1)(view, view.aux, gen())
    return [value.clone() for value in head.state_dict().values()]


class Halves(Defense):
    """Sends half of what a head makes."""

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed / 2


class Taxes(Defense):
    """Adds one to the client's loss."""

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed.new_ones(())


@pytest.mark.parametrize("parts", [[Taxes()], [Halves(), Taxes()], [Taxes(), Halves()]])
def test_the_second_way_forgets_the_penalty_and_nothing_else(parts: list[Defense]) -> None:
    view = replace(view_of(None), defense=parts[0] if len(parts) == 1 else Stack(parts))
    pays, free = ways(view)
    assert pays is view
    sent = [as_released(way, X, gen()) for way in (pays, free)]
    assert torch.equal(sent[0], sent[1])
    assert torch.equal(sent[0], X / len(parts))
    assert [float(as_trained(way, X, Y, X, gen())) for way in (pays, free)] == [1, 0]
    for other in (replace(view, adaptive=False), view_of(None)):
        assert ways(other) == (other,)


def test_the_way_without_the_penalty_draws_as_if_it_were_alone_and_the_other_draws_its_own() -> None:
    view = replace(view_of(None), defense=Taxes())
    draws, drawn = gen(), []
    for _, own in abreast(view, draws):
        drawn.append(torch.rand(1000, generator=own, dtype=torch.float64))
    alone = gen()
    assert torch.equal(drawn[1], torch.rand(1000, generator=alone, dtype=torch.float64))
    assert torch.equal(draws.get_state(), alone.get_state())
    assert not torch.isin(drawn[0], drawn[1]).any()
    again = torch.rand(1000, generator=next(abreast(view, gen()))[1], dtype=torch.float64)
    later = torch.rand(1000, generator=next(abreast(view, draws))[1], dtype=torch.float64)
    assert torch.equal(again, drawn[0])
    assert not torch.isin(later, drawn[0]).any()


def test_a_statement_is_a_draw_of_the_law_and_the_unaware_know_of_none() -> None:
    labels = torch.arange(3).repeat_interleave(20_000)
    law = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]).double()
    drawn = as_stated(view_of(law), labels, gen())
    counts = torch.stack([torch.bincount(drawn[labels == y], minlength=3) for y in range(3)]) / 20_000
    assert float((counts - law).abs().max()) < 5 * 0.5 / 20_000**0.5
    assert drawn.dtype is labels.dtype
    for view in (view_of(law, adaptive=False), view_of(None)):
        generator = gen()
        assert as_stated(view, labels, generator) is labels
        assert torch.equal(generator.get_state(), gen().get_state())  # nothing was drawn


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sdar", {"width": 4, "blocks": 0, "critic_width": 4, "batch_size": 8, "l2": 0.1, "steps": 2}),
        ("pcat", {"width": 4, "tail_width": 8, "late": 0.0, "steps": 2}),
        ("query-free", {}),
    ],
)
def test_simulated_clients_are_trained_on_what_would_be_stated(name: str, settings: dict[str, Any]) -> None:
    def made(law: Tensor | None, labels: Tensor = TRUE, **how: Any) -> list[Tensor]:
        view = view_of(law, labels, **how)
        return shadow(view) if name == "query-free" else learned(name, view, **settings)

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    stated = made(SWAPPED)
    assert same(stated, made(KEPT, 1 - TRUE))
    assert not same(stated, made(KEPT))
    assert same(made(SWAPPED, adaptive=False), made(None))
