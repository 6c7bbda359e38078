# SPDX-License-Identifier: Apache-2.0
"""Max-norm alignment in closed form, its nulls, and that lengths of gradients stop telling a rare class."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from splitguard.api import ATTACKS, Context, Labels, NotSupported, Phase, Stack
from splitguard.defenses.max_norm import MaxNorm
from splitguard.engine.bench import Bench
from splitguard.errors import Diverged
from splitguard.metrics import auc
from tests.attacks.views import label_view


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returned(grad: Tensor, seed: int = 0) -> Tensor:
    labels = torch.zeros(len(grad), dtype=torch.int64)
    return MaxNorm().on_return(grad, labels, Context(labels, 0, 0, 0, Phase.TRAINING), gen(seed))


@pytest.mark.parametrize("grad", [torch.eye(5), torch.ones(4, 2, 3) * 1e-20, torch.randn(1, 7, generator=gen())])
def test_equal_lengths_are_left_alone_to_the_bit(grad: Tensor) -> None:
    assert torch.equal(returned(grad), grad)


def test_the_formula_row_by_row() -> None:
    grad = torch.tensor([[3.0, 4.0], [0.3, -0.4], [0.0, 1.0]], dtype=torch.float64)
    xi = torch.randn(3, generator=gen(5), dtype=torch.float64)
    factor = 1 + xi * (25 / grad.square().sum(1) - 1).clamp(min=0).sqrt()
    torch.testing.assert_close(returned(grad, 5), grad * factor[:, None], rtol=1e-12, atol=0)


def test_one_number_a_row_keeps_the_line_and_the_mean_and_makes_the_second_moment_equal() -> None:
    # Code in use adds isotropic noise that is not scaled by the gradient: it leaves the line.
    one = torch.tensor([[0.0, 0.1, 0.2, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.5]], dtype=torch.float64)
    draws = 4000
    out = torch.stack([returned(one, seed) for seed in range(draws)])
    across = out - (out * one).sum(2, keepdim=True) / one.square().sum(1)[:, None] * one
    assert float(across.abs().max()) < 1e-12
    left = 2 / draws**0.5  # at most one standard error, as no row's noise is longer than 2
    assert ((out.mean(0) - one).norm(dim=1) < 4 * left).all()
    # ||g + xi s u||^2 with s^2 = M^2 - n^2 has mean M^2 and variance 4 n^2 s^2 + 2 s^4 <= 2 M^4.
    assert ((out.square().sum(2).mean(0) - 4).abs() < 4 * (2 * 16 / draws) ** 0.5).all()


@pytest.mark.parametrize("small", [0.0, 1e-30])
def test_a_gradient_without_length_is_hidden_like_the_others(small: float) -> None:
    grad = torch.full((4001, 3), small)
    grad[0] = torch.tensor([0.0, 3.0, 4.0])
    out = returned(grad)
    assert torch.equal(out[0], grad[0])
    assert bool(torch.isfinite(out).all())
    assert abs(float(out[1:].square().sum(1).mean()) / 25 - 1) < 4 * (2 / 4000) ** 0.5
    if small == 0:  # there is no direction to keep, so all are equally likely
        spread = out[1:].T.cov() / (25 / 3)
        assert float((spread - torch.eye(3)).abs().max()) < 0.2


def test_lengths_stop_telling_a_rare_class() -> None:
    grad = torch.randn(4000, 20, generator=gen(1))
    rare = torch.arange(4000) % 10 == 0
    grad = grad / grad.norm(dim=1, keepdim=True) * torch.where(rare, 1.0, 0.1)[:, None]
    before, after = (auc(g.norm(dim=1), rare) for g in (grad, returned(grad)))
    assert before == 1.0
    assert after is not None
    assert 0.5 < after < 0.75  # the second moments agree, the laws do not: P(|1 + 10 xi| / 10 < 1) is .68


def test_nothing_comes_of_nothing() -> None:
    assert returned(torch.zeros(0, 3)).shape == (0, 3)
    zero = torch.zeros(4, 3)
    assert torch.equal(returned(zero), zero)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_row_that_is_not_finite_spoils_no_other(bad: float) -> None:
    grad = torch.ones(3, 2)
    grad[1, 0] = bad
    with pytest.raises(Diverged, match=r"max-norm: a gradient is not finite.*nothing was returned"):
        returned(grad)


def test_labels_that_are_sent_are_not_hidden_by_it() -> None:
    with pytest.raises(NotSupported, match=r"max-norm hides labels in the gradient.*Use label-dp"):
        Bench(MaxNorm(), labels=Labels.SENT)
    for labels in (Labels.SERVER, Labels.CLIENT):
        bench = Bench(MaxNorm(), labels=labels)
        assert dataclasses.fields(bench.defense) == ()  # type: ignore[arg-type]  # it is a dataclass
        assert bench.defense.privacy() == ()


def spread(classes: int, rows: int = 400) -> tuple[Tensor, Tensor]:
    """Gradients of even predictions, mean w - w_y, of very unequal lengths, and their classes."""
    labels = torch.arange(rows) % classes
    weights = torch.randn(classes, 64, generator=gen(1))
    lengths = torch.rand(rows, generator=gen(2)) ** 4 + 1e-3
    return (weights.mean(0) - weights)[labels] * lengths[:, None], labels


def test_who_knows_it_reads_the_sign_off_the_lines_of_the_classes() -> None:
    gradients, labels = spread(10)
    sent = returned(gradients)
    flipped = (sent * gradients).sum(1) < 0
    assert 0.2 < float(flipped.float().mean()) < 0.5
    read = MaxNorm().restored(sent, sent[:50], labels[:50])
    assert torch.equal(read.abs(), sent.abs())
    side = ((read * gradients).sum(1) > 0).view(-1, 10)  # row after row of classes 0 to 9
    assert bool((side == side[:1]).all())  # all of a class on one side, whichever it is


@pytest.mark.parametrize("name", ["gradient-cosine", "gradient-spectral", "similarity"])
def test_knowing_it_pays_where_there_are_more_than_two_classes(name: str) -> None:
    gradients, labels = spread(10)
    view = label_view(returned(gradients), labels, list(range(50)), 10)
    found = {}
    for adaptive in (True, False):
        known = dataclasses.replace(view, adaptive=adaptive, defense=Stack([MaxNorm()]))
        guess = ATTACKS.build(name).run(known, gen())
        assert guess.labels is not None
        found[adaptive] = float((guess.labels == labels[50:]).double().mean())
    assert found[True] == 1
    assert found[False] < 0.9


def test_two_classes_are_told_apart_by_the_sign_alone_and_it_stays() -> None:
    gradients, labels = spread(2)
    sent = returned(gradients)
    assert torch.equal(MaxNorm().restored(sent, sent[:50], labels[:50]), sent)
