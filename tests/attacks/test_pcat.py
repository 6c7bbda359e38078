# SPDX-License-Identifier: Apache-2.0
"""PCAT: what the pseudo-client learns from and what it leaves alone, and that it refines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Defense, Rows, View
from splitguard.attacks.pcat import PCAT
from splitguard.building.learners import Learners
from splitguard.errors import BadSetting, NotSupported
from splitguard.metrics import mse, ssim
from tests.attacks.streams import Recorder, exchanges, stream_view, watch
from tests.attacks.views import Noise, gen, network, rows_of, sent_view, smooth

CONV = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
LINEAR = (nn.Flatten(), nn.Linear(64, 80))
TINY: dict[str, Any] = {"width": 4, "tail_width": 8, "decode": 2, "decoder_width": 4, "finish": 2, "late": 0.0}


def labelled(count: int, labels: list[int], first: int = 1000) -> Rows:
    inputs = smooth(count, seed=first)
    return Rows(inputs, torch.tensor(labels).repeat(count)[:count], torch.arange(first, first + count))


def classifier(seed: int = 0, units: int = 256, classes: int = 2) -> nn.Sequential:
    return network(seed, (nn.Flatten(), nn.Linear(units, classes)))


def build(name: str = "pcat", **settings: Any) -> PCAT:
    made = ATTACKS.build(name, **{**TINY, **settings})
    assert isinstance(made, PCAT)
    return made


def state(attack: PCAT) -> dict[str, Tensor]:
    found: dict[str, Tensor] = attack.watched()[0].state_dict()["nets"]
    return {name: value.clone() for name, value in found.items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def watched(attack: PCAT, labels: list[int], aux: Rows, *, shown: bool = True) -> list[list[int]]:
    """The auxiliary labels of each step, beside victims with these labels in one batch."""
    head, defense = network(0, CONV), Recorder()
    view = stream_view(smooth(2), head, aux, body=classifier(), defense=defense)
    told = torch.tensor(labels)
    watch(attack, view, exchanges(smooth(len(labels)), head, size=len(labels), labels=told if shown else None))
    return [[] if batch.labels is None else batch.labels.tolist() for batch in defense.batches]


def test_auxiliary_samples_have_the_labels_of_the_batch() -> None:
    labels = [1, 1, 0, 1, 1, 1]
    assert watched(build(steps=3), labels, labelled(20, [0, 1])) == [labels] * 3
    loose = watched(build(steps=3, align=False), labels, labelled(20, [0, 1]))
    assert loose != [labels] * 3
    assert [len(batch) for batch in loose] == [6] * 3


def test_a_class_without_auxiliary_samples_is_left_out() -> None:
    assert watched(build(), [1, 0, 1, 0], labelled(20, [0])) == [[0, 0]]
    assert [len(batch) for batch in watched(build(), [1, 1, 1, 1], labelled(20, [0]))] == [4]


def test_labels_that_are_not_seen_are_not_needed() -> None:
    assert [len(batch) for batch in watched(build(), [1, 1, 1], labelled(20, [0, 1]), shown=False)] == [3]


def run_of(head: nn.Module, *, smashed: Callable[[Tensor], Tensor], match: float) -> dict[str, Tensor]:
    x, y = smooth(24), torch.arange(24) % 2
    view = stream_view(smooth(2), head, labelled(20, [0, 1]), body=classifier())
    stream = [replace(e, smashed=smashed(e.smashed)) for e in exchanges(x, head, size=8, labels=y)]
    return state(watch(build(match=match), view, stream))


@pytest.mark.parametrize(("match", "equal"), [(0.0, True), (1.0, False)])
def test_the_papers_loss_looks_at_no_smashed_data(match: float, equal: bool) -> None:
    head = network(0, CONV)
    plain = run_of(head, smashed=lambda z: z, match=match)
    assert same(plain, run_of(head, smashed=lambda z: 1 - z, match=match)) is equal


def test_only_the_stand_ins_learn_and_nothing_is_written_to() -> None:
    """A first layer in place and BatchNorm in the body: smashed data, parameters and statistics stay as they are."""
    head = network(0, (nn.Conv2d(1, 4, 3, padding=1),))
    body = network(1, (nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))).train()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    view = stream_view(smooth(2), head, labelled(20, [0, 1]), body=body)
    [exchange] = exchanges(smooth(8), head, size=8, labels=torch.arange(8) % 2)
    attack, sent = build(late=0.05), exchange.smashed.clone()
    attack.start(view, gen())
    for begins in (False, True):
        attack._late.signal = [0.5, 1.0] if begins else []
        first = state(attack)
        attack.observe(exchange, view, gen())
        assert same(first, state(attack)) is not begins
    assert torch.equal(exchange.smashed, sent)
    assert same(before, body.state_dict())


def test_it_draws_the_defense_and_its_penalty_only_if_it_may_know_them() -> None:
    head = network(0, CONV)
    for adaptive in (True, False):
        defense = Recorder()
        view = stream_view(smooth(2), head, labelled(20, [0, 1]), body=classifier(), defense=defense, adaptive=adaptive)
        defense.drawn = 0  # the view was made with it
        watch(build(), view, exchanges(smooth(8), head, size=8, labels=torch.arange(8) % 2)).run(view, gen())
        assert (defense.drawn > 3, len(defense.batches) > 0) == (adaptive, adaptive)


def test_refining_drives_the_stand_in_to_the_smashed_data() -> None:
    """With the head itself for a stand-in, which a linear layer inverts, the refined image is the victim's."""

    class Exact(PCAT):
        def networks(self, view: View, generator: torch.Generator) -> Learners:
            return Learners({"client": (network(0, LINEAR).requires_grad_(True), 1e-3)})

    x, head = smooth(4), network(0, LINEAR)
    view, error = stream_view(x, head, labelled(20, [0, 1]), body=nn.Identity()), {}
    for steps in (0, 60):
        attack = Exact(**{**TINY, "finish": 0, "finetune": steps, "live": False})
        guess = watch(attack, view, []).run(view, gen())
        assert guess.images is not None
        error[steps] = float(mse(guess.images, x).mean())
        assert (guess.converged is None) == (steps == 0)
    assert error[60] < 1e-4
    assert error[60] < 0.01 * error[0]


def test_vanilla_learns_after_the_session_alone_and_on_a_copy() -> None:
    head = network(0, CONV)
    view = stream_view(smooth(3), head, labelled(20, [0, 1]), body=classifier())
    stream = exchanges(smooth(8), head, size=8, labels=torch.arange(8) % 2)
    attack = build(live=False, finish=5)
    before = state(watch(attack, view, []))
    after = state(watch(attack, view, stream))
    assert same(before, after)
    first, second = attack.run(view, gen()), attack.run(view, gen())
    assert same(after, state(attack))
    assert first.images is not None
    assert second.images is not None
    assert torch.equal(first.images, second.images)
    assert first.budget.steps == 5 + TINY["decode"]
    live = watch(build(steps=2, finish=5), view, stream).run(view, gen())
    assert live.budget.steps == 2 + 5 + TINY["decode"]


def test_no_smashed_data_need_be_kept() -> None:
    head = network(0, CONV)
    view = stream_view(smooth(3), head, labelled(20, [0, 1]), body=classifier())
    guess = watch(build(keep=0), view, exchanges(smooth(8), head, size=8)).run(view, gen())
    assert guess.images is not None
    assert bool(torch.isfinite(guess.images).all())


@pytest.mark.slow
def test_noise_is_learned_through() -> None:
    """With the noise in the loop the decoder has seen what it will be given."""
    x, head, error = smooth(16), network(0, CONV), {}
    for adaptive in (True, False):
        view = stream_view(x, head, labelled(60, [0, 1]), body=classifier(), defense=Noise(0.3), adaptive=adaptive)

        class Exact(PCAT):
            def networks(self, view: View, generator: torch.Generator) -> Learners:
                return Learners({"client": (network(0, CONV).requires_grad_(True), 1e-3)})

        attack = Exact(**{**TINY, "finish": 0, "decode": 80, "decoder_width": 8, "live": False})
        images = watch(attack, view, []).run(view, gen()).images
        assert images is not None
        error[adaptive] = float(mse(images, x).mean())
    assert error[True] < 0.8 * error[False]


class Bursts(Defense):
    """Three releases in ten are drowned in noise: of a mean of six, hardly one is left whole."""

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        drowned = (torch.rand(len(smashed), generator=generator) < 0.3).view(-1, 1, 1, 1)
        return smashed + drowned * 100 * torch.randn(smashed.shape, generator=generator)


@pytest.mark.slow
def test_where_knowing_the_defense_misleads_the_decoder_is_that_of_a_static_attacker() -> None:
    x, head, aux = smooth(12), network(0, CONV), smooth(100, seed=50)
    attack = build(decode=60, decoder_width=8)
    found: dict[tuple[str, bool], Tensor] = {}
    for defense in (Bursts(), Noise(0.3)):
        for adaptive in (True, False):
            view = sent_view(x, [head], [[0] * 6] * 12, aux=aux, defense=defense, adaptive=adaptive)
            images, steps = attack.decoded(view, Learners({"client": (head, 1e-3)}), gen())
            assert steps == (120 if adaptive else 60)
            found[type(defense).__name__, adaptive] = ssim(images, x)
    assert float(found["Noise", True].mean()) > float(found["Noise", False].mean()) + 0.1
    whole = found["Bursts", False] > 0.5
    assert int(whole.sum()) >= 5
    assert bool((found["Bursts", True][whole] > 0.5).all())


def test_who_has_not_watched_is_refused() -> None:
    view = stream_view(smooth(2), network(0, CONV), rows_of(smooth(20)), body=classifier())
    with pytest.raises(NotSupported, match=r"pcat watches a session while it is trained: train\(..., beside="):
        build().run(view, gen())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "pcat: steps must be at least 1; got 0"),
        ({"finish": -1}, "finish must be at least 0"),
        ({"match": -0.5}, "match must be at least 0"),
        ({"match": float("nan")}, "match must be at least 0; got nan"),
        ({"width": 0}, "width must be at least 1"),
        ({"tail_width": 0}, "tail_width must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"late": 1.0}, r"a share in \[0, 1\) of the loss to fall; got 1.0"),
        ({"late": -0.1}, r"a share in \[0, 1\)"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        build(**settings)
