# SPDX-License-Identifier: Apache-2.0
"""Against a penalty a second stand-in is trained without it: what becomes of two, for images, labels and functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.api import ATTACKS, Batch, Defense, Guess, Labels, View
from splitguard.building.beside import Beside
from splitguard.building.simulate import abreast
from tests.attacks.streams import exchanges, stream_view, watch
from tests.attacks.views import gen, network, rows_of, smooth

HEAD = network(0, (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()))
TINY: dict[str, Any] = {"width": 4, "decode": 3, "decoder_width": 4, "finish": 2, "lr": 0.05}
PCAT = {**TINY, "tail_width": 8, "late": 0.0}
FORA = {**TINY, "critic_width": 4, "critic_blocks": 0}


class Tax(Defense):
    """Makes what a client sends small."""

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return 1e4 * smashed.square().mean()


def view_of(*, adaptive: bool = True, tail: bool = False) -> View:
    aux = replace(rows_of(smooth(40, seed=50)), labels=torch.arange(40) % 2)
    body = network(1, (nn.Flatten(), nn.Linear(256, 6 if tail else 2)))
    how: dict[str, Any] = {"features": (6,) if tail else (), "adaptive": adaptive, "defense": Tax()}
    view = stream_view(smooth(6), HEAD, aux, body=body, **how)
    return replace(view, labels=Labels.CLIENT) if tail else view


def watched(name: str, view: View, **settings: Any) -> Beside:
    attack = ATTACKS.build(name, **settings)
    assert isinstance(attack, Beside)
    shown = None if view.labels is Labels.CLIENT else torch.arange(8) % 2
    return watch(attack, view, exchanges(smooth(8), HEAD, size=4, labels=shown))


def run(attack: Beside, view: View) -> Guess:
    return attack.run(view, gen())


@pytest.mark.parametrize(("name", "settings"), [("pcat", PCAT), ("fora", FORA)])
def test_images_are_the_mean_of_both_and_only_the_first_pays(name: str, settings: dict[str, Any]) -> None:
    view = view_of()
    attack = watched(name, view, **settings, steps=2)
    whole, draws = run(attack, view), gen()
    clients = attack.finished(view, draws)
    sizes = [float(nets["client"](smooth(6)).square().mean()) for nets in clients]
    assert sizes[0] < 0.5 * sizes[1]
    both = zip(clients, abreast(view, draws), strict=True)
    (one, spent, _), (two, more, _) = (attack.inverted(view, nets, own) for nets, (_, own) in both)
    assert whole.images is not None
    assert torch.equal(whole.images, torch.stack([one, two]).mean(0))
    assert not torch.allclose(one, two, atol=1e-3)
    assert whole.budget.steps == sum(nets.steps for nets in clients) + spent + more
    static = view_of(adaptive=False)
    alone = watched(name, static, **settings, steps=2)
    assert len(alone.finished(static, gen())) == 1
    unaware = run(alone, static).images
    assert unaware is not None
    assert torch.equal(two, unaware)  # so that knowing the penalty adds to what a static attacker has


def test_labels_are_the_mean_of_what_both_tails_say() -> None:
    view = view_of(tail=True)
    attack = watched("pcat-labels", view, **PCAT, neighbours=1)
    guess, clients = run(attack, view), attack.finished(view, gen())
    made = view.body()(view.releases.last(view.ids).smashed)
    one, two = (nets["tail"](made).log_softmax(1) for nets in clients)
    assert guess.scores is not None
    torch.testing.assert_close(guess.scores, ((one + two) / 2).detach())
    assert not torch.allclose(one, two, atol=1e-3)
    static = view_of(tail=True, adaptive=False)
    unaware = run(watched("pcat-labels", static, **PCAT, neighbours=1), static).scores
    assert unaware is not None
    assert torch.equal(two, unaware)


@pytest.mark.parametrize("tail", [False, True])
def test_of_two_functions_the_one_that_serves_auxiliary_rows_better_is_handed_over(tail: bool) -> None:
    view = view_of(tail=tail)
    attack = watched("pcat-functionality", view, **PCAT)
    guess, losses = run(attack, view), []
    for nets in attack.finished(view, gen()):
        out = view.body()(nets["client"](view.aux.inputs))
        losses.append(float(cross_entropy(nets["tail"](out) if tail else out, view.aux.labels)))
    assert guess.head is not None
    out = view.body()(guess.head(view.aux.inputs))
    assert (guess.tail is not None) == tail
    out = guess.tail(out) if guess.tail is not None else out
    assert losses[0] != losses[1]
    assert float(cross_entropy(out, view.aux.labels)) == pytest.approx(min(losses))


def test_both_stand_ins_survive_a_kill() -> None:
    view = view_of()
    whole, resumed = watched("pcat", view, **PCAT), ATTACKS.build("pcat", **PCAT)
    assert isinstance(resumed, Beside)
    resumed.start(view, gen(1))
    resumed.load_state_dict(whole.state_dict())
    one, two = run(whole, view).images, run(resumed, view).images
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
