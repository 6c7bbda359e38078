# SPDX-License-Identifier: Apache-2.0
"""The largest activations of each row: by hand, row by row and not over the batch, and what their absence tells."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitguard.api import BadSetting, Phase
from splitguard.building.likelihood import JointLikelihood
from splitguard.defenses.top_k import TopK
from splitguard.engine.bench import Bench
from splitguard.engine.promises import Broken, rows_apart
from tests.attacks.views import convs, sent_view, smooth
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_keeping_all_keeps_every_bit() -> None:
    bench, smashed = Bench(TopK(keep=1.0)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)
    assert torch.equal(bench.defense.residual(smashed, 0 * smashed), smashed)


def test_by_hand() -> None:
    bench = Bench(TopK(keep=0.5))
    sent = bench.send(torch.tensor([[3.0, -5.0, 1.0, 0.5], [0.1, 0.3, -0.2, 0.0]]))
    assert torch.equal(sent, torch.tensor([[3.0, -5.0, 0.0, 0.0], [0.0, 0.3, -0.2, 0.0]]))


@pytest.mark.parametrize(("keep", "width", "count"), [(0.3, 10, 3), (0.7, 10, 7), (0.01, 10, 1), (0.31, 10, 4)])
def test_the_count_is_the_share_rounded_up(keep: float, width: int, count: int) -> None:
    sent = Bench(TopK(keep=keep)).send(rows(5, width))
    assert (sent != 0).sum(1).tolist() == [count] * 5


def test_equal_magnitudes_still_make_the_stated_count() -> None:
    assert (Bench(TopK(keep=0.5)).send(torch.ones(3, 2, 4)) != 0).flatten(1).sum(1).tolist() == [4, 4, 4]


@given(st.integers(1, 6), st.integers(1, 30), st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_what_is_sent_is_exact_and_larger_than_what_is_not(count: int, width: int, keep: float, seed: int) -> None:
    given = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    sent = TopK(keep=keep).mean_release(given)
    kept = sent != 0
    assert torch.equal(sent[kept], given[kept])
    for row, mask in zip(given.abs(), kept, strict=True):
        assert mask.all() or float(row[mask].min()) >= float(row[~mask].max())


class OverTheBatch(TopK):
    """The bug of ResSFL's baseline: one threshold for the whole batch tensor."""

    def mean_release(self, smashed: Tensor) -> Tensor:
        count = max(round(self.keep * smashed.numel()), 1)
        return torch.where(smashed.abs() >= smashed.abs().flatten().topk(count).values[-1], smashed, 0)


def test_a_loud_row_takes_nothing_from_the_others() -> None:
    given = rows(8, 20)
    given[0] *= 1000
    counts = {cls: (cls(keep=0.4).mean_release(given) != 0).sum(1).tolist() for cls in (TopK, OverTheBatch)}
    assert counts[TopK] == [8] * 8
    assert counts[OverTheBatch][0] == 20  # the bug shows in the same numbers
    assert rows_apart(TopK)
    with pytest.raises(Broken, match="changes with other rows"):
        rows_apart(functools.partial(OverTheBatch))


def test_the_gradient_goes_where_something_was_sent() -> None:
    given = torch.tensor([[3.0, -5.0, 1.0, 0.5]], requires_grad=True)
    (grad,) = torch.autograd.grad((2 * TopK(keep=0.5).mean_release(given)).sum(), given)
    assert torch.equal(grad, torch.tensor([[2.0, 2.0, 0.0, 0.0]]))


def test_what_did_not_arrive_is_known_to_be_smaller() -> None:
    sent = torch.tensor([[3.0, -5.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    made = torch.tensor([[4.0, -5.0, 3.5, -1.0], [0.5, 2.0, -0.25, 0.0]])
    # Row 0: the others lie within +-3. Row 1: k is 2 and one arrived, so the others are zeros.
    wanted = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.5, 0.0, -0.25, 0.0]])
    assert torch.equal(TopK(keep=0.5).residual(made, sent), wanted)


def test_an_attacker_who_knows_is_at_rest_at_the_truth_only() -> None:
    heads, x = convs(1), smooth(3)
    sent = JointLikelihood.of(sent_view(x, heads, [[0]] * 3, defense=TopK(keep=0.3)), releases=8)
    assert float(sent.misfit(0.1)(x).max()) < 1e-6
    assert float(sent.misfit(0.1)(smooth(3, seed=9)).min()) > 0.1
    assert sent.over(torch.cat([smooth(4, seed=9), x]), 0.1).argmin(1).tolist() == [4, 5, 6]


@pytest.mark.parametrize("keep", [0.0, 1.1, -0.5])
def test_a_share_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(BadSetting, match=r"in \(0, 1\]"):
        TopK(keep=keep)


def test_in_training_each_row_sends_its_share() -> None:
    session = run({"top-k": {"keep": 0.25}}, epochs=2)
    for phase in ("training", "query"):
        found = session.transcript.releases(phase)
        assert found is not None
        assert int((found.smashed != 0).flatten(1).sum(1).max()) == 16  # of 64
    assert session.guarantees == ()
