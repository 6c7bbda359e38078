# SPDX-License-Identifier: Apache-2.0
"""Shuffled places: contents kept, orders uniform and fresh, and an attacker who puts them in order again."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Context, NotSupported, Phase
from splitguard.building.likelihood import JointLikelihood
from splitguard.defenses.patch_shuffle import PatchShuffle
from splitguard.engine.bench import Bench
from tests.attacks.views import convs, sent_view, smooth
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def places(map_: Tensor) -> set[tuple[float, ...]]:
    """The vectors over channels of one map (C, H, W)."""
    return {tuple(v) for v in map_.flatten(1).T.tolist()}


def test_every_place_is_sent_whole_once() -> None:
    bench, given = Bench(PatchShuffle()), rows(5, 3, 4, 6)
    for phase in Phase:  # where it is deployed, too
        sent = bench.send(given, phase=phase)
        assert [places(m) for m in sent] == [places(m) for m in given]
        assert not torch.equal(sent, given)


def test_patches_move_whole() -> None:
    given = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    sent = PatchShuffle(patch=2).released_like(given, torch.Generator().manual_seed(1))
    blocks = [
        {tuple(m[0, :, i : i + 2, j : j + 2].flatten().tolist()) for i in (0, 2) for j in (0, 2, 4)}
        for m in (given, sent)
    ]
    assert blocks[0] == blocks[1]
    assert not torch.equal(sent, given)


SHAPES: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((5, 3), {"fixed": 2}),
    ((3, 4, 6), {"patch": 2}),
    ((3, 4, 4), {}),
]


@pytest.mark.parametrize(("shape", "settings"), SHAPES)
def test_a_row_that_is_alike_at_all_places_stays_as_it_is_to_the_bit(
    shape: tuple[int, ...], settings: dict[str, int]
) -> None:
    defense, gen = PatchShuffle(**settings), torch.Generator().manual_seed(0)
    each = rows(8, 3).mul(64).round()  # whole numbers, so that their means are exact too
    given = (each[:, None] if len(shape) == 2 else each[:, :, None, None]).expand(8, *shape).contiguous()
    for phase in Phase:
        assert torch.equal(defense.on_send(given, Context(torch.arange(8), 0, 0, 0, phase), gen), given)
    assert torch.equal(defense.released_like(given, gen), given)
    assert torch.equal(defense.mean_release(given), given)
    assert not defense.residual(given, given).any()


@pytest.mark.parametrize(("shape", "settings"), [((4, 3), {"fixed": 2}), ((2, 2, 4), {"patch": 2})])
def test_a_row_that_drew_the_identity_is_sent_as_it_is_to_the_bit(
    shape: tuple[int, ...], settings: dict[str, int]
) -> None:
    """Two places move, so that half of all rows draw the identity and the others the exchange."""
    given = rows(400, *shape)
    sent = PatchShuffle(**settings).released_like(given, torch.Generator().manual_seed(0))
    swapped = given[:, [0, 1, 3, 2]] if len(shape) == 2 else given.roll(2, dims=-1)
    kept, moved = ((sent == other).flatten(1).all(1) for other in (given, swapped))
    assert bool((kept ^ moved).all())
    assert abs(float(kept.double().mean()) - 0.5) < 4 * (0.25 / 400) ** 0.5


def test_orders_are_uniform_and_a_class_token_stays() -> None:
    count = 12_000
    given = torch.arange(4.0).view(1, 4, 1).expand(count, 4, 1)
    defense = PatchShuffle(fixed=1)
    sent = defense.released_like(given, torch.Generator().manual_seed(0))
    assert bool((sent[:, 0] == 0).all())
    found = Counter(map(tuple, sent[:, 1:, 0].tolist()))
    assert set(found) == set(itertools.permutations([1.0, 2.0, 3.0]))
    expected = count / 6
    assert sum((n - expected) ** 2 / expected for n in found.values()) < 25.7  # chi-square, 5 degrees, 1e-4
    again = defense.released_like(given, torch.Generator().manual_seed(1))
    alike = float((again == sent).all(2).all(1).double().mean())
    assert abs(alike - 1 / 6) < 4 * math.sqrt(5 / 36 / count)


def test_the_mean_is_the_mean_over_all_orders() -> None:
    given = rows(1, 4, 2)
    every = torch.stack([given[:, [0, *order]] for order in itertools.permutations([1, 2, 3])])
    torch.testing.assert_close(PatchShuffle(fixed=1).mean_release(given), every.mean(0))


@pytest.mark.parametrize(("shape", "settings"), [((5, 3), {"fixed": 1}), ((2, 4, 4), {"patch": 2}), ((3, 2, 2), {})])
def test_the_residual_is_the_least_over_all_orders(shape: tuple[int, ...], settings: Any) -> None:
    defense = PatchShuffle(**settings)
    made, sent = rows(6, *shape), rows(12, *shape)[6:]
    # All orders, made by the defense itself from numbers that name the places.
    names = torch.arange(math.prod(shape), dtype=torch.float64).view(1, *shape).expand(600, *shape)
    orders = defense.released_like(names, torch.Generator().manual_seed(0)).long().flatten(1).unique(dim=0)
    assert len(orders) == 24
    least = [
        min(float((m.flatten() - s.flatten()[o]).square().sum()) for o in orders)
        for m, s in zip(made, sent, strict=True)
    ]
    found = defense.residual(made, sent).square().flatten(1).sum(1)
    torch.testing.assert_close(found, torch.tensor(least))


def test_the_residual_of_the_truth_is_0_and_has_the_gradient_of_its_own_places() -> None:
    defense, truth = PatchShuffle(), rows(4, 3, 3, 3)
    sent = defense.released_like(truth, torch.Generator().manual_seed(0))
    assert torch.equal(defense.residual(truth, sent), 0 * truth)
    made = (truth + 0.01 * rows(4, 3, 3, 3).flip(0)).requires_grad_()
    left = defense.residual(made, sent)
    torch.testing.assert_close(left.detach(), (made - truth).detach())  # small errors do not change the order
    (grad,) = torch.autograd.grad(left.square().sum(), made)
    torch.testing.assert_close(grad, 2 * (made - truth).detach())


def test_an_order_aware_attacker_is_at_rest_at_the_truth_and_one_who_is_not_is_not() -> None:
    heads, x = convs(1), smooth(3)
    aware, naive = (
        JointLikelihood.of(sent_view(x, heads, [[0], [0], [0]], defense=PatchShuffle(), adaptive=adaptive), releases=1)
        for adaptive in (True, False)
    )
    assert float(aware.misfit(0.1)(x).max()) < 1e-6
    assert float(naive.misfit(0.1)(x).max()) > 1
    assert aware.over(torch.cat([smooth(4, seed=9), x]), 0.1).argmin(1).tolist() == [4, 5, 6]


def test_a_body_that_pools_over_places_does_not_mind() -> None:
    given = rows(4, 3, 6, 6).double()
    sent = PatchShuffle().released_like(given, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sent.mean((2, 3)), given.mean((2, 3)))


@pytest.mark.parametrize(
    ("shape", "settings", "error", "message"),
    [
        ((10,), {}, NotSupported, "no places to put in another order"),
        ((5, 8), {"patch": 2}, BadSetting, "for 5 tokens patch must be 1"),
        ((5, 8), {"fixed": 4}, BadSetting, r"fixed lie in 0\.\.3"),
        ((3, 4, 4), {"fixed": 1}, BadSetting, "fixed must be 0"),
        ((3, 4, 4), {"patch": 3}, BadSetting, "divide both sides"),
        ((3, 4, 4), {"patch": 4}, BadSetting, "more than one square"),
    ],
)
def test_a_cut_that_the_settings_do_not_fit_is_refused(
    shape: tuple[int, ...], settings: Any, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        PatchShuffle(**settings).released_like(rows(2, *shape), torch.Generator())


def test_settings_outside_their_range_are_refused() -> None:
    for settings in ({"patch": 0}, {"fixed": -1}):
        with pytest.raises(BadSetting, match="patch must be at least 1 and fixed at least 0"):
            PatchShuffle(**settings)


def test_in_training_contents_cross_in_another_order_each_time() -> None:
    session = run({"patch-shuffle": {}}, head="frozen", epochs=2)
    found = session.transcript.releases("training")
    assert found is not None
    found, _ = found.all_of(session.data.members)
    with torch.no_grad():
        made = session.split.head.eval()(session.truth(session.data.members).inputs).repeat_interleave(2, 0)
    torch.testing.assert_close(found.smashed.flatten(2).sort(2).values, made.flatten(2).sort(2).values)
    assert not torch.equal(found.smashed[0::2], found.smashed[1::2])
    with pytest.raises(NotSupported, match="no places"):
        run({"patch-shuffle": {}}, cut="fc1")
