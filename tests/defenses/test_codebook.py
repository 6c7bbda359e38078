# SPDX-License-Identifier: Apache-2.0
"""A row is answered once; epsilon holds for any number of epochs; what is sent is the mean word under the answer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported, Phase, Rows
from splitguard.building.words import axes_of
from splitguard.defenses.codebook import Codebook
from splitguard.engine.bench import Bench
from splitguard.engine.mechanism import as_mechanism
from splitguard.privacy.estimate import estimate_epsilon
from splitguard.seeding import generator

SHAPE = (6,)


def deployment(rows: Tensor, **more: Any) -> Deployment:
    """A frozen identity head, so that auxiliary rows (A, 6) are the auxiliary smashed data."""
    base = Bench(Defense(), head_frozen=True).deployment
    aux = Rows(rows, torch.zeros(len(rows), dtype=torch.int64), torch.arange(len(rows)))
    return dataclasses.replace(base, aux=aux, head=nn.Identity(), cut_shapes=(SHAPE,), **more)


def clusters(count: int = 4, each: int = 20) -> tuple[Tensor, Tensor]:
    """Rows in tight clusters far apart, and the clusters' centres."""
    centres = 10 * torch.eye(count, 6)
    wobble = 0.01 * torch.randn(count * each, 6, generator=generator(0, "wobble"))
    return centres.repeat_interleave(each, 0) + wobble, centres


def context(ids: Tensor) -> Context:
    return Context(ids, 0, 0, 0, Phase.TRAINING)


def test_words_are_the_clusters_and_a_large_epsilon_sends_them() -> None:
    rows, centres = clusters()
    defense = Codebook(epsilon=20, words=4)
    defense.bind(deployment(rows))
    sent = defense.on_send(centres, context(torch.arange(4)), generator(0, "x"))
    torch.testing.assert_close(sent, centres, atol=0.02, rtol=0)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_row_that_is_a_word_is_sent_to_the_bit_at_the_largest_epsilon(parts: int) -> None:
    """Rows of few distinct values are their own clusters; e^-30 of another word is lost in rounding to float32."""
    words = torch.randint(1, 64, (4, 6), generator=generator(0, "words")).float() / 8
    defense = Codebook(epsilon=30.0 * parts, words=4, parts=parts, space="plain")
    defense.bind(deployment(words.repeat(20, 1)))
    given = words.repeat(100, 1)
    assert torch.equal(defense.on_send(given, context(torch.arange(400)), generator(0, "x")), given)
    assert torch.equal(defense.released_like(given, generator(1, "x")), given)
    assert torch.equal(defense.mean_release(given), given)
    nearby = defense.mean_release(given + 0.01)  # a row that is no word becomes one
    assert torch.equal(nearby, given)


def test_a_row_is_answered_once_whatever_it_becomes() -> None:
    rows, centres = clusters()
    defense = Codebook(epsilon=0.5, words=4)
    defense.bind(deployment(rows))
    gen, ids = generator(0, "x"), torch.arange(4)
    first = defense.on_send(centres, context(ids), gen)
    later = defense.on_send(centres.flip(0), context(ids), gen)
    assert torch.equal(first, later)
    others = [defense.on_send(centres, context(ids + 10 * i), gen) for i in range(1, 20)]
    assert any(not torch.equal(first, other) for other in others)


def test_queries_and_training_of_one_row_share_its_answer() -> None:
    rows, centres = clusters()
    defense = Codebook(epsilon=0.5, words=4)
    defense.bind(deployment(rows))
    gen, ids = generator(0, "x"), torch.arange(4)
    sent = defense.on_send(centres, context(ids), gen)
    assert torch.equal(sent, defense.on_send(centres, Context(ids, 0, 0, 0, Phase.QUERY), gen))


@pytest.mark.parametrize(
    ("epsilon", "words", "size"), [(2.0, 4, 1), (2.0, 13, 2), (1.0, 16, 4)], ids=["response", "two", "four"]
)
def test_the_answer_is_as_large_as_tells_most_and_the_statement_names_it(epsilon: float, words: int, size: int) -> None:
    """The size is Ye and Barg's, k / (e^epsilon + 1); the mean of the words under the answer is computed by hand."""
    defense = Codebook(epsilon=epsilon, words=words, space="plain")
    rows = torch.randn(40, 6, generator=generator(0, "rows"))
    defense.bind(deployment(rows))
    answers = defense._draw(defense._nearest(rows), generator(0, "answers"))
    assert answers.shape == (40, 1, size)
    [stated] = defense.privacy()
    assert ("k-ary randomised response" if size == 1 else f"subset selection of {size} words") in stated.mechanism
    book, likely = defense._books[0].words, math.exp(epsilon)
    inside = torch.zeros(40, words, dtype=torch.float64).scatter_(1, answers[:, 0], 1.0)
    weights = 1 + (likely - 1) * inside
    wanted = (weights / weights.sum(1, keepdim=True)) @ book
    torch.testing.assert_close(defense._sent(answers, rows.double()), wanted)


@pytest.mark.parametrize(("epsilon", "parts"), [(1.0, 1), (3.0, 2)])
def test_what_is_sent_has_the_mean_that_attackers_are_told(epsilon: float, parts: int) -> None:
    rows, centres = clusters()
    defense = Codebook(epsilon=epsilon, words=4, parts=parts)
    defense.bind(deployment(rows))
    n = 20_000
    sent = defense.on_send(centres[:1].expand(n, 6), context(torch.arange(n)), generator(0, "x"))
    error = sent.std(0) / n**0.5
    assert bool(((sent.mean(0) - defense.mean_release(centres[:1])[0]).abs() < 5 * error + 1e-4).all())


def test_more_words_are_chosen_where_epsilon_pays_for_them() -> None:
    rows = torch.randn(800, 6, generator=generator(0, "rows"))
    chosen = []
    for epsilon in (0.5, 3.0, 12.0):
        defense = Codebook(epsilon=epsilon, space="plain")
        defense.bind(deployment(rows))
        chosen.append(len(defense._books[0].words))
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]


@pytest.mark.parametrize("draw", range(6))
def test_few_rows_get_a_word_a_class_whatever_answers_are_drawn(draw: int) -> None:
    labels = torch.arange(4).repeat_interleave(4)
    rows = 3 * torch.eye(4, 6)[labels] + torch.randn(16, 6, generator=generator(draw, "few"))
    base = deployment(rows, classes=4)
    defense = Codebook(epsilon=3)
    defense.bind(dataclasses.replace(base, aux=Rows(rows, labels, torch.arange(16))))
    assert len(defense._books[0].words) == 4


def test_the_guarantee_is_pure_and_covers_the_whole_view() -> None:
    rows, _ = clusters()
    defense = Codebook(epsilon=2, words=4)
    defense.bind(deployment(rows))
    [stated] = defense.privacy()
    assert (stated.epsilon, stated.epsilon_rows, stated.epsilon_query, stated.delta) == (2, 2, 2, 0)
    assert "once for each row" in str(stated)


class Redrawn(Codebook):
    """Answers anew at each sending and claims the same."""

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        self._answers.clear()
        return super().on_send(smashed, ctx, generator)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flagged"), [(Codebook, False), (Redrawn, True)])
def test_the_game_flags_answers_drawn_anew_and_not_the_remembered_one(kind: type[Codebook], flagged: bool) -> None:
    one = as_mechanism(kind(epsilon=2, words=2), shape=(4,), batch=2, releases=6)
    assert one.send is not None
    found = estimate_epsilon(one.send, one.claim, shape=(4,), batch=2, trials=150, generator=generator(0, "game"))
    assert (found.measure, found.flagged) == ("epsilon", flagged), str(found)
    if not flagged:
        assert found.lower > 0.5 * one.claim.epsilon  # the game does see the answers


def test_what_cannot_be_promised_is_refused() -> None:
    rows, _ = clusters()
    with pytest.raises(NotSupported, match="head is trained"):
        Codebook().bind(deployment(rows, head_frozen=False))
    with pytest.raises(NotSupported, match="norm"):
        Codebook().bind(deployment(rows, mixing=("norm",)))
    with pytest.raises(BadSetting, match="80 of them distinct, make no codebook"):
        Codebook(words=100).bind(deployment(rows))
    with pytest.raises(BadSetting, match="7 parts of 6"):
        Codebook(parts=7).bind(deployment(rows))
    with pytest.raises(NotSupported, match="bind"):
        Codebook().mean_release(rows)


def test_words_tell_classes_apart_where_other_directions_are_wider() -> None:
    gen = generator(0, "two classes")
    labels = torch.arange(200) % 2
    rows = torch.randn(200, 6, generator=gen) * torch.tensor([1.0, 40, 40, 40, 40, 40])
    rows[:, 0] += 6 * labels
    right = {}
    for space in ("discriminant", "plain"):
        defense = Codebook(epsilon=20, words=2, space=space)
        base = deployment(rows)
        defense.bind(dataclasses.replace(base, aux=Rows(rows, labels, torch.arange(200))))
        word = defense._nearest(rows)[:, 0]
        right[space] = max(float((word == labels).double().mean()), float((word != labels).double().mean()))
    assert right["discriminant"] > 0.95
    assert right["plain"] < 0.7


def test_two_classes_lie_apart_along_fishers_direction() -> None:
    gen = generator(0, "fisher")
    labels = torch.arange(600) % 2
    mix = torch.randn(4, 4, generator=gen, dtype=torch.float64)
    rows = torch.randn(600, 4, generator=gen, dtype=torch.float64) @ mix + labels[:, None] * torch.ones(4)
    means = torch.stack([rows[labels == k].mean(0) for k in (0, 1)])
    within = torch.cov((rows - means[labels]).T, correction=0)
    apart = torch.linalg.solve(within, means[1] - means[0])
    axes = axes_of(rows, labels)
    assert axes.shape == (4, 1)
    # With 150 rows a coordinate next to nothing is shrunk.
    assert abs(float(torch.cosine_similarity(axes[:, 0], apart, dim=0))) > 0.999
    assert float(axes[:, 0] @ within @ axes[:, 0]) == pytest.approx(1, abs=0.05)


def test_few_rows_in_many_dimensions_still_find_where_classes_lie_apart() -> None:
    """40 rows span too little of 60 dimensions for their scatter to be inverted; two directions matter."""
    gen = generator(0, "few rows")
    centres = torch.zeros(3, 60, dtype=torch.float64)
    centres[1, 0], centres[2, 1] = 3, 3

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        return centres[labels] + torch.randn(count, 60, generator=gen, dtype=torch.float64), labels

    axes = axes_of(*drawn(42))
    rows, labels = drawn(3000)
    named = torch.cdist(rows @ axes, centres @ axes).argmin(1)
    assert float((named == labels).double().mean()) > 0.8  # of .95 with both directions known
    assert axes.shape == (60, 2)


def test_classes_of_one_point_each_have_axes() -> None:
    rows, labels = torch.eye(3, dtype=torch.float64).repeat(4, 1), torch.arange(3).repeat(4)
    shown = rows @ axes_of(rows, labels)
    assert torch.isfinite(shown).all()
    assert float(torch.pdist(shown[:3]).min()) > 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"space": "discriminent"},
        {"epsilon": 0},
        {"epsilon": 31},
        {"words": 1},
        {"words": "many"},
        {"parts": 0},
        {"epsilon": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BadSetting):
        DEFENSES.build({"codebook": settings})
