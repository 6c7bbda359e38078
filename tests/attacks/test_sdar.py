# SPDX-License-Identifier: Apache-2.0
"""SDAR: what each network learns from, one step at a time, and that the session neither feels nor loses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import splitguard.attacks.sdar as module
from splitguard.attacks.sdar import Sdar, SdarLabels
from splitguard.building.critics import looks_like
from splitguard.building.learners import Learners
from splitguard.building.simulation import Seen
from splitguard.engine.defense import Batch, Defense
from splitguard.engine.fresh import fresh_copy
from splitguard.engine.threat import Sees
from splitguard.engine.view import View
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from splitguard.metrics import mse
from tests.attacks.views import Halved, gen, network, rows_of, sent_view, smooth

SMALL: dict[str, Any] = {"critic_width": 4, "batch_size": 8, "finish": 0}
DECODES: dict[str, Any] = {**SMALL, "width": 4, "blocks": 0}
# No bias before BatchNorm: its gradient is 0 but for rounding, of which Adam makes a whole step.
HEAD = network(0, (nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()))
BODY = network(1, (nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 2)))
AUX = replace(rows_of(smooth(20, seed=50)), labels=torch.arange(20) % 2)


def known(**how: Any) -> View:
    view = sent_view(smooth(4), [HEAD], [[0]] * 4, **how)
    models = replace(view.models, body=lambda: BODY, blank_head=lambda generator: fresh_copy(HEAD, generator))
    return replace(view, models=models, _aux=AUX)


def exchange(smashed: Tensor, labels: Tensor | None = None, step: int = 0) -> Exchange:
    return Exchange(0, step, Phase.TRAINING, 0, 100 + torch.arange(len(smashed)), smashed=smashed, labels=labels)


Z = HEAD(smooth(6))
Y = torch.tensor([0, 1, 1, 0, 1, 0])


def watched(smashed: Tensor, labels: Tensor | None = Y, view: View | None = None, **settings: Any) -> Sdar:
    """SDAR after one exchange."""
    attack, view, draws = Sdar(**{**DECODES, **settings}), view or known(), gen()
    attack.start(view, draws)
    attack.observe(exchange(smashed, labels), view, draws)
    return attack


def weights(attack: Sdar, name: str) -> Mapping[str, Tensor]:
    # What the decoder has seen of the victims' statistics is not learned.
    learned = dict(attack._clients[0][name].named_parameters())
    return {k: v.detach().clone() for k, v in learned.items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


def test_the_judge_sees_what_is_decoded_of_the_victim() -> None:
    """A judge whose fakes are decoded auxiliary rows, as in a port of this attack, learns nothing from other z."""
    alone: dict[str, Any] = {"l1": 0.0, "l2": 0.1, "steps": 2}  # in the first step d answers with means, whatever z
    one, other = (watched(z, **alone) for z in (Z, Z.flip(3)))
    assert same(weights(one, "head"), weights(other, "head"))
    assert not same(weights(one, "judge"), weights(other, "judge"))
    assert not same(weights(one, "decoder"), weights(other, "decoder"))  # the judge's gradient passes d(z)


def test_the_critic_sees_what_the_victim_sent() -> None:
    one, other = (watched(z, l2=0.0) for z in (Z, Z.flip(3)))
    assert not same(weights(one, "critic"), weights(other, "critic"))


def test_the_critic_pulls_the_head_towards_what_it_takes_for_sent() -> None:
    attack, free = watched(Z, l2=0.0, l1=1e4), watched(Z, l2=0.0, l1=0.0)
    start = Sdar(**DECODES, l1=1e4, l2=0.0)
    start.start(known(), gen())
    critic = start._clients[0]["critic"].eval()

    def fooled(of: Sdar) -> float:
        with torch.no_grad():
            made = of._clients[0]["head"](AUX.inputs)
            return float(looks_like(critic(made, AUX.labels), True))

    assert fooled(attack) < fooled(free)


def test_without_either_weight_the_victim_is_not_looked_at() -> None:
    one, other = (watched(z, l1=0.0, l2=0.0) for z in (Z, Z.flip(3)))
    assert "critic" not in one._clients[0]
    assert "judge" not in one._clients[0]
    for name in ("head", "decoder"):
        assert same(weights(one, name), weights(other, name))


def test_the_head_learns_the_task_through_the_live_body_and_moves_it_not() -> None:
    """One step by hand: all auxiliary rows at once, so that nothing depends on which are drawn."""
    before = {k: v.clone() for k, v in BODY.state_dict().items()}
    attack = Sdar(**{**DECODES, "batch_size": 20}, l1=0.0, l2=0.0)
    attack.start(known(), gen())
    reference = fresh_copy(HEAD, gen())
    for ours, theirs in zip(attack._clients[0]["head"].parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    attack.observe(exchange(Z, Y), known(), gen())
    optimizer = torch.optim.Adam(reference.parameters(), lr=attack.lr)
    torch.autograd.backward(cross_entropy(BODY(reference(AUX.inputs).clone()), AUX.labels))
    optimizer.step()
    for ours, theirs in zip(attack._clients[0]["head"].parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert attack._clients[0]["head"].training  # as a client's is
    assert all(torch.equal(v, before[k]) for k, v in BODY.state_dict().items())
    assert all(p.grad is None for p in BODY.parameters())


class Probe(Sdar):
    """Remembers what it was given to decode."""

    def _use(self, nets: Learners, seen: Seen) -> None:
        self.seen = seen
        self.made = nets["head"]


class Tax(Defense):
    """A penalty on long smashed data that outweighs all else."""

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return 1e4 * smashed.square().mean()


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_simulated_client_is_defended_if_the_attacker_knows(adaptive: bool) -> None:
    def made(defense: Defense) -> Tensor:
        attack = Probe(**DECODES, lr=1e-12)
        view = known(defense=defense, adaptive=adaptive)
        draws = gen()
        attack.start(view, draws)
        attack.observe(exchange(Z, Y), view, draws)
        return attack.seen.made

    torch.testing.assert_close(made(Halved()), made(Defense()) / (2 if adaptive else 1))

    def lengths(defense: Defense) -> float:
        view = known(defense=defense, adaptive=adaptive)
        attack = watched(Z, view=view, lr=0.05, l1=0.0, l2=0.0)
        with torch.no_grad():
            return float(attack._clients[0]["head"](AUX.inputs).square().mean())

    assert (lengths(Tax()) < lengths(Defense())) == adaptive


def test_labels_are_used_where_they_are_given_and_asked_for() -> None:
    other = watched(Z, 1 - Y, l1=0.0)
    assert not same(weights(watched(Z, l1=0.0), "judge"), weights(other, "judge"))
    loose = [watched(Z, y, conditional=False) for y in (Y, 1 - Y)]
    assert same(weights(loose[0], "judge"), weights(loose[1], "judge"))
    untold = known()
    untold = replace(untold, granted=untold.granted & ~Sees.LABELS)
    assert watched(Z, None, untold)._told == 0


def guesses(attack: Sdar, view: View, labels: Tensor | None) -> Tensor:
    rows = view.releases
    images = attack.run(replace(view, _releases=replace(rows, labels=labels)), gen()).images
    assert images is not None
    return images


def test_an_untrained_decoder_answers_with_the_mean_of_the_class() -> None:
    """For query victims, whose labels never cross, of the class that the body sees."""
    attack = watched(Z, decoder_lr=1e-30)
    view = known()
    means = torch.stack([AUX.inputs[AUX.labels == k].mean(0) for k in (0, 1)])
    told = torch.tensor([1, 0, 0, 1])
    torch.testing.assert_close(guesses(attack, view, told), means[told])
    seen = BODY(view.releases.smashed.clone()).argmax(1)
    torch.testing.assert_close(guesses(attack, view, None), means[seen])


def test_the_error_is_a_mean_over_victims_however_many_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port of this attack divides a sum of batch means by the number of samples, and looks 128 times better."""
    attack, view, truth = watched(Z), known(), smooth(4)
    images = guesses(attack, view, None)
    by_hand = [float(((g - x) ** 2).mean()) for g, x in zip(images, truth, strict=True)]
    assert mse(images, truth).tolist() == pytest.approx(by_hand)
    monkeypatch.setattr(module, "CHUNK", 3)
    torch.testing.assert_close(guesses(attack, view, None), images)


def test_it_may_be_run_on_one_view_after_another() -> None:
    attack = watched(Z, finish=3)
    first, again = (guesses(attack, known(), None) for _ in range(2))
    assert torch.equal(first, again)


def test_flipped_labels_are_drawn_evenly() -> None:
    labels, share, count = torch.zeros(4000, dtype=torch.int64), 0.3, 4000
    flipped = Sdar(**DECODES, flip=share)._flipped(labels, 4, gen())
    for k in range(4):
        wanted = share / 4 + (1 - share) * (k == 0)
        error = (wanted * (1 - wanted) / count) ** 0.5
        assert abs(float((flipped == k).float().mean()) - wanted) < 4 * error
    assert torch.equal(Sdar(**DECODES, flip=0.0)._flipped(labels, 4, gen()), labels)


def test_it_begins_when_it_is_told_to() -> None:
    attack, view, draws = Sdar(**DECODES, first_step=2), known(), gen()
    attack.start(view, draws)
    attack.observe(exchange(Z, Y, step=1), view, draws)
    with pytest.raises(NotSupported, match=r"sdar has learned nothing.*first_step=2 must lie below"):
        attack.run(view, draws)
    attack.observe(exchange(Z, Y, step=2), view, draws)
    assert attack._steps == 4
    attack.observe(exchange(Z[:1], Y[:1], step=3), view, draws)  # a single row has no statistics
    assert attack._steps == 4


@pytest.mark.parametrize("kind", [Sdar, SdarLabels])
def test_what_it_needs_is_missed_by_name(kind: type[Sdar] | type[SdarLabels]) -> None:
    for need in kind.threat.needs:
        poorer = known()
        with pytest.raises(MissingKnowledge, match=str(need)):
            kind().start(replace(poorer, granted=poorer.granted & ~need), gen())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"first_step": -1}, "first_step must be at least 0"),
        ({"l1": -1.0}, "l1 must be at least 0"),
        ({"l2": -1.0}, "l2 must be at least 0"),
        ({"finish": -1}, "finish must be at least 0"),
        ({"keep": -1}, "keep must be at least 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"critic_width": 0}, "critic_width must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"blocks": -1}, "blocks must be at least 0"),
        ({"flip": 1.5}, r"flip is a probability in \[0, 1\]; got 1.5"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"critic_lr": 0.0}, "critic_lr must be positive"),
        ({"decoder_lr": 0.0}, "decoder_lr must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        Sdar(**settings)
