# SPDX-License-Identifier: Apache-2.0
"""Against a penalty two clients are simulated, one with it and one without, and the mean of both is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import Batch, Defense, Exchange, Labels, Sees, View
from splitguard.attacks.sdar import Sdar, SdarLabels
from splitguard.engine.fresh import fresh_copy
from tests.attacks.streams import exchanges, stream_view, watch
from tests.attacks.views import gen, network, rows_of, smooth

HEAD = network(0, (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()))
BODY = network(1, (nn.Flatten(), nn.Linear(256, 2)))
SMALL: dict[str, Any] = {"critic_width": 4, "batch_size": 8, "finish": 2, "lr": 0.05}
DECODES: dict[str, Any] = {**SMALL, "width": 4, "blocks": 0}


class Tax(Defense):
    """Makes what a client sends small."""

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return 1e4 * smashed.square().mean()


def view_of(*, adaptive: bool = True, defense: Defense | None = None, features: tuple[int, ...] = ()) -> View:
    aux = replace(rows_of(smooth(20, seed=50)), labels=torch.arange(20) % 2)
    body = network(1, (nn.Flatten(), nn.Linear(256, 6))) if features else BODY
    how: dict[str, Any] = {"features": features, "adaptive": adaptive}
    view = stream_view(smooth(6), HEAD, aux, body=body, defense=defense or Tax(), **how)
    models = replace(view.models, blank_head=lambda generator: fresh_copy(HEAD, generator))
    return replace(view, models=models, granted=view.granted | Sees.ARCHITECTURE)


def stream() -> Sequence[Exchange]:
    return list(exchanges(smooth(8), HEAD, size=4, labels=torch.arange(8) % 2))


def test_the_first_client_pays_and_the_second_does_not() -> None:
    attack = watch(Sdar(**DECODES), view_of(), stream())
    with torch.no_grad():
        sizes = [float(nets["head"](smooth(6)).square().mean()) for nets in attack._clients]
    assert len(sizes) == 2
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize("how", [{"adaptive": False}, {"defense": Defense()}])
def test_who_knows_of_no_penalty_simulates_one_client(how: dict[str, Any]) -> None:
    assert len(watch(Sdar(**DECODES), view_of(**how), stream())._clients) == 1


def test_images_are_the_mean_of_both_and_both_are_counted() -> None:
    attack, view = watch(Sdar(**DECODES), view_of(), stream()), view_of()
    whole = attack.run(view, gen())
    clients = attack._finished(view.body(), view, gen())
    sent = view.releases.last(view.ids).smashed
    told = BODY(sent).argmax(1)
    with torch.no_grad():
        one, two = (nets["decoder"].eval()(sent, told).clamp(0, 1) for nets in clients)
    assert whole.images is not None
    torch.testing.assert_close(whole.images, (one + two) / 2)
    assert not torch.allclose(one, two, atol=1e-3)
    assert whole.budget.steps == 2 * 4 * (2 + 2)  # clients, networks, exchanges and finish


@pytest.mark.parametrize("steps", [1, 3])
def test_the_second_client_is_to_the_bit_that_of_who_knows_of_no_penalty(steps: int) -> None:
    known, unknown = (view_of(adaptive=adaptive) for adaptive in (True, False))
    attack, alone = (watch(Sdar(**DECODES, steps=steps), view, stream()) for view in (known, unknown))
    two = attack._finished(known.body(), known, gen())[1]
    [one] = alone._finished(unknown.body(), unknown, gen())
    mine, other = (nets.state_dict()["nets"] for nets in (one, two))
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert mine.keys() == other.keys()


def test_labels_are_judged_by_the_mean_of_both_tails() -> None:
    view = replace(view_of(features=(6,)), labels=Labels.CLIENT)
    attack = watch(SdarLabels(**{**SMALL, "finish": 0}), view, stream())
    last = stream()[-1]
    features = view.body()(last.smashed)
    with torch.no_grad():
        one, two = (nets["tail"](features).log_softmax(1) for nets in attack._clients)
    for place, row in enumerate(last.ids.tolist()):
        torch.testing.assert_close(attack._scores[row], (one[place] + two[place]) / 2)
    assert not torch.allclose(one, two, atol=1e-3)


def test_both_clients_survive_a_kill() -> None:
    first, second = stream()
    whole, half = watch(Sdar(**DECODES), view_of(), [first]), Sdar(**DECODES)
    half.start(view_of(), gen(1))
    half.load_state_dict(whole.state_dict())
    for attack in (whole, half):
        attack.observe(second, view_of(), gen(2))
    for one, two in zip(whole._clients, half._clients, strict=True):
        for mine, other in zip(one.state_dict()["nets"].values(), two.state_dict()["nets"].values(), strict=True):
            assert torch.equal(mine, other)
