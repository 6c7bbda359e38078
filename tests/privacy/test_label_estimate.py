# SPDX-License-Identifier: Apache-2.0
"""The game of labels flags each usual mistake of randomised response, and neither of two correct mechanisms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.defenses.gradient_noise import GradientNoise
from splitguard.defenses.label_dp import LabelDp
from splitguard.engine.defense import Context
from splitguard.engine.mechanism import Mechanism, as_mechanism
from splitguard.errors import BadSetting, NotSupported
from splitguard.privacy import response
from splitguard.privacy.estimate import Claim, Estimate, estimate_epsilon, estimate_label_epsilon
from splitguard.privacy.label_game import LABEL_STATISTICS, LABEL_WORLDS, Tell, play_labels
from splitguard.seeding import generator

EPSILON, CLASSES, BATCH, RELEASES, TRIALS = 2.0, 5, 8, 4, 400
LAW = response(torch.ones(CLASSES), epsilon=EPSILON)
CLAIM = Claim(EPSILON, 0.0, 1.0, RELEASES, gaussian=False)


def answers(labels: Tensor, gen: torch.Generator, law: Tensor = LAW) -> Tensor:
    return torch.multinomial(law[labels], 1, generator=gen)[:, 0]


def remembering(law: Tensor = LAW) -> Tell:
    """One answer a row."""
    kept: dict[tuple[int, ...], Tensor] = {}

    def tell(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        return kept.setdefault(tuple(ids.tolist()), answers(labels, gen, law))

    return tell


def fresh(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """A new answer in every epoch, claimed as if it were remembered."""
    return answers(labels, gen)


def one_a_label(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
    """All rows of one label get one answer, so that rows whose labels are known tell of the others."""
    of_label = answers(torch.arange(CLASSES), gen)
    return of_label[labels]


def slips() -> Tell:
    """Remembers, and forgets itself at the last release."""
    honest = remembering()
    return lambda labels, ids, release, gen: labels if release == RELEASES - 1 else honest(labels, ids, release, gen)


def echoing() -> Tell:
    """Answers rightly, and adds the first row's true label to everybody else's answer."""
    honest = remembering()

    def tell(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        out = honest(labels, ids, release, gen).clone()
        out[1:] = labels[0]
        return out

    return tell


BUGS: dict[str, Callable[[], Tell]] = {
    "drawn anew every epoch": lambda: fresh,
    "twice the epsilon": lambda: remembering(response(torch.ones(CLASSES), epsilon=2 * EPSILON)),
    "one answer a label": lambda: one_a_label,
    "the truth at the end": slips,
    "told by the others": echoing,
}
CORRECT: dict[str, Callable[[], Tell]] = {
    "randomised response": remembering,
    "with a prior": lambda: remembering(response(torch.tensor([5.0, 3, 1, 1, 1]), epsilon=EPSILON)),
    "one answer for all": lambda: lambda labels, ids, release, gen: torch.full_like(labels, 3),
}


def estimated(tell: Tell, **more: int) -> Estimate:
    setting = {"classes": CLASSES, "batch": BATCH, "trials": TRIALS, **more}
    return estimate_label_epsilon(tell, CLAIM, generator=generator(0, "labels"), **setting)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_each_mistake_is_flagged(bug: str) -> None:
    found = estimated(BUGS[bug]())
    assert found.flagged, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_mechanism_is_not_flagged(name: str) -> None:
    found = estimated(CORRECT[name]())
    assert not found.flagged, str(found)
    assert found.ceiling > 1.4 * EPSILON  # so that not being flagged says something
    assert (found.measure, len(found.tests)) == ("epsilon", len(LABEL_WORLDS) * len(LABEL_STATISTICS))


def test_the_first_statement_comes_near_the_truth() -> None:
    """Its likelihood ratio is e^epsilon: the limit lies below epsilon by little more than its confidence costs."""
    once = Claim(EPSILON, 0.0, 1.0, 1, gaussian=False)
    draws = generator(0, "labels")
    found = estimate_label_epsilon(remembering(), once, classes=CLASSES, batch=2, trials=4000, generator=draws)
    assert 0.75 * EPSILON < found.lower < EPSILON


def test_the_truth_shows_the_ceiling_and_no_more() -> None:
    found = estimated(lambda labels, ids, release, gen: labels, trials=100)
    assert found.lower == pytest.approx(found.ceiling)
    assert math.isfinite(found.ceiling)


def test_statistics_by_hand() -> None:
    """Row 0 states its label, the others state 1; three rows, two releases, three classes."""

    def tell(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        return torch.tensor([int(labels[0]) if release == 0 else 1, 1, 1])

    alike, spread = play_labels(tell, classes=3, batch=3, releases=2, trials=8, generator=generator(0, "hand"))
    # Labels 0 and 2: row 0 votes +1, then 0; nobody else votes, and all agree at the second release.
    assert alike.left[0].tolist() == [1, 1, 0, 1, 1]
    assert alike.right[0].tolist() == [-1, -1, 0, 1, 1]
    # Labels 0 and 1: a statement of 1 is a vote for the right.
    assert spread.left[0].tolist() == [1, 0, -2, 1, 1]
    assert spread.right[0].tolist() == [-1, -2, -2, 2, 0]
    assert bool((alike.left == alike.left[0]).all())


def test_only_one_label_differs_and_every_trial_has_ids_of_its_own() -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def tell(labels: Tensor, ids: Tensor, release: int, gen: torch.Generator) -> Tensor:
        if release == 0:
            seen.append((tuple(ids.tolist()), tuple(labels.tolist())))
        return labels

    list(play_labels(tell, classes=4, batch=6, releases=2, trials=8, generator=generator(0, "x")))
    rows = [row for ids, _ in seen for row in ids]
    assert len(rows) == len(set(rows)) == 2 * 2 * 8 * 6
    kinds = list(dict.fromkeys(labels for _, labels in seen))
    assert kinds == [(0, 0, 0, 0, 0, 0), (3, 0, 0, 0, 0, 0), (0, 1, 2, 3, 0, 1), (1, 1, 2, 3, 0, 1)]


def test_what_cannot_be_played_is_refused() -> None:
    for wrong in ({"batch": 1}, {"classes": 1}, {"trials": 7}):
        with pytest.raises(BadSetting, match="2 classes or more, a batch of 2 rows or more"):
            estimated(fresh, **wrong)
    for lies in (lambda labels, *rest: labels[:1], lambda labels, *rest: labels + 1):
        with pytest.raises(BadSetting, match="one such label a row"):
            estimated(lies, trials=8)


class Forgets(LabelDp):
    """Claims what `label-dp` claims, and draws anew in every epoch: the bug of code in use."""

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        self._answers.clear()
        return super().on_labels(labels, ctx, generator)


def mechanism(defense: Any, **more: Any) -> Mechanism:
    return as_mechanism(defense, shape=(3,), batch=BATCH, releases=RELEASES, classes=CLASSES, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flagged"), [(LabelDp, False), (Forgets, True)])
@pytest.mark.parametrize("prior", ["uniform", "aux"])
def test_the_defense_keeps_its_word_and_one_that_forgets_does_not(
    kind: type[LabelDp], flagged: bool, prior: Any
) -> None:
    one = mechanism(kind(epsilon=EPSILON, prior=prior))
    assert one.tell is not None
    assert (one.channel, one.claim.epsilon, one.claim.delta, one.claim.releases) == ("labels", EPSILON, 0, RELEASES)
    draws = generator(0, "labels")
    found = estimate_label_epsilon(one.tell, one.claim, classes=CLASSES, batch=2, trials=TRIALS, generator=draws)
    assert found.flagged == flagged, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", [1.0, 0.25])
def test_noise_on_returned_gradients_is_a_claim_about_labels_too(forgotten: float) -> None:
    """At a quarter of the noise it promised it is flagged, at all of it not."""
    defense = GradientNoise(epsilon=4.0)
    one = mechanism(defense)
    send = one.send
    assert send is not None
    assert one.tell is None
    assert one.channel == "labels"
    assert defense._scale is not None
    clip, sigma = defense._scale
    assert one.claim.clip == pytest.approx(clip)
    defense._scale = (clip, sigma * forgotten)
    draws = generator(0, "gradients")
    found = estimate_epsilon(send, one.claim, shape=(3,), batch=2, trials=100, generator=draws)
    assert found.flagged == (forgotten < 1), str(found)


def test_a_channel_without_a_claim_is_refused() -> None:
    with pytest.raises(NotSupported, match="label-dp: it claims no epsilon for the inputs of training rows"):
        mechanism(LabelDp(), channel="inputs")
    with pytest.raises(NotSupported, match="claims no epsilon for the inputs or the labels"):
        mechanism(GradientNoise(sigma=0.1, clip="none"))
