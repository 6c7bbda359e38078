# SPDX-License-Identifier: Apache-2.0
"""The clipped Laplace release: exact nulls, the L1 clip, the law of the noise, its pure epsilon, and planted bugs."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from splitguard.api import DEFENSES, Labels, Mode, Phase
from splitguard.building.rows_alone import clip_rows
from splitguard.defenses.laplace import Laplace
from splitguard.engine.bench import Bench
from splitguard.engine.stack import Stack
from splitguard.errors import BadSetting, Diverged, ReleaseRefused
from tests.defenses.test_in_training import refuses_more, run


def rows(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


def test_without_clip_and_noise_every_bit_stays() -> None:
    bench = Bench(Laplace(scale=0, clip="none"))
    smashed = rows(8, 4, 6, 6, scale=1e3)
    for phase in Phase:
        assert bench.send(smashed, phase=phase) is smashed
    assert bench.defense.released_like(smashed, bench.gen()) is smashed
    assert (bench.defense.noise_std(), bench.defense.privacy()) == (0.0, ())


def test_the_clip_in_closed_form() -> None:
    bench = Bench(Laplace(scale=0, clip=1.0))
    sent = bench.send(torch.tensor([[3.0, -1.0], [0.3, 0.4], [0.0, 0.0], [0.0, -7.0]]))
    assert torch.equal(sent, torch.tensor([[0.75, -0.25], [0.3, 0.4], [0.0, 0.0], [0.0, -1.0]]))
    assert bench.defense.privacy() == ()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(1e-3, 1e3), st.integers(0, 2**31))
@example([5, 5, 5, 5], 1.0, 856835)
def test_rows_of_any_shape_are_clipped_in_l1_and_alone(shape: list[int], clip: float, seed: int) -> None:
    given = 10 * torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    got = clip_rows(given, clip, order=1)
    norms = given.double().abs().flatten(1).sum(1)
    kept = got.double().abs().flatten(1).sum(1)
    torch.testing.assert_close(kept, norms.clamp(max=clip), rtol=2e-7, atol=0)
    assert all(torch.equal(got[i : i + 1], clip_rows(given[i : i + 1], clip, order=1)) for i in range(4))


def test_the_noise_is_laplace_of_the_stated_scale_and_fresh() -> None:
    bench, gen = Bench(Laplace(scale=0.7, clip=2.0)), torch.Generator().manual_seed(3)
    smashed, ids = rows(40, 500), torch.arange(40)
    first, second = (bench.defense.on_send(smashed, bench.context(ids), gen) for _ in range(2))
    noise = torch.stack([first, second]) - bench.defense.mean_release(smashed)
    n = noise[0].numel()
    for draw in noise:
        assert stats.kstest(draw.flatten().numpy(), stats.laplace(scale=0.7).cdf).pvalue > 1e-4
        # The fourth moment of Laplace is 6 variances squared, so the variance's standard error is sqrt(5 / n).
        assert abs(float(draw.var()) / (2 * 0.7**2) - 1) < 4 * (5 / n) ** 0.5
    assert abs(float((noise[0] * noise[1]).mean()) / (2 * 0.7**2)) < 4 / n**0.5
    assert bench.defense.noise_std() == pytest.approx(0.7 * 2**0.5)


@pytest.mark.parametrize(("adjacency", "change"), [("replace-one", 2.0), ("zero-out", 1.0)])
def test_the_scale_for_an_epsilon_is_the_closed_form(adjacency: Any, change: float) -> None:
    bench = Bench(Laplace(epsilon=4.0, clip=3.0, adjacency=adjacency), releases=5)
    assert bench.defense.noise_std() / 2**0.5 == pytest.approx(5 * change * 3.0 / 4.0, rel=1e-12)
    [told] = bench.defense.privacy()
    assert told.epsilon_rows == pytest.approx(4.0, rel=1e-12)
    assert told.epsilon_query == pytest.approx(0.8, rel=1e-12)
    assert (told.delta, told.T, told.adjacency, told.epsilon) == (0.0, 5, adjacency, None)
    assert f"L1 sensitivity {change * 3:.4g}" in str(told)
    twin = Bench(Laplace(scale=bench.defense.noise_std() / 2**0.5, clip=3.0, adjacency=adjacency), releases=5)
    [again] = twin.defense.privacy()
    assert again.epsilon_rows == pytest.approx(4.0, rel=1e-12)


def test_an_automatic_clip_is_the_median_l1_norm() -> None:
    bench = Bench(Laplace(scale=1.0))
    with torch.no_grad():
        norms = bench.network.head(bench.deployment.aux.inputs).double().abs().flatten(1).sum(1)
    sent = bench.defense.mean_release(1e6 * bench.smashed).double().abs().flatten(1).sum(1)
    torch.testing.assert_close(sent, norms.quantile(0.5).expand(8), rtol=1e-6, atol=0)


class ClipsInL2(Laplace):
    """The bug of a clip in the other norm: d coordinates of a row may then move sqrt(d) times as far in L1."""

    order: ClassVar[int] = 2


class ClipsTheLastAxis(Laplace):
    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed * (1.0 / smashed.abs().sum(-1, keepdim=True).clamp(min=1.0))


class DividesByTheBatch(Laplace):
    """The bug of a factor from the batch's largest norm, which lets no row pass the clip and all rows meet."""

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed / smashed.abs().flatten(1).sum(1).max().clamp(min=1.0)


@pytest.mark.parametrize(("cls", "holds"), [(Laplace, True), (ClipsInL2, False), (ClipsTheLastAxis, False)])
def test_a_neighbour_moves_a_row_by_two_clips_in_l1_at_most(cls: type[Laplace], holds: bool) -> None:
    bench = Bench(cls(scale=1.0, clip=1.0))
    far = rows(64, 4, 6, 6, scale=1e4)
    moved = (bench.defense.mean_release(far) - bench.defense.mean_release(-far)).double().abs().flatten(1).sum(1)
    assert (float(moved.max()) <= 2 * (1 + 1e-6)) == holds


def test_a_row_does_not_depend_on_a_louder_one() -> None:
    given = rows(8, 5)
    louder = torch.cat([given[:1], 1e3 * given[1:]])
    for cls, holds in ((Laplace, True), (DividesByTheBatch, False)):
        defense = Bench(cls(scale=1.0, clip=1.0)).defense
        assert torch.equal(defense.mean_release(given)[0], defense.mean_release(louder)[0]) == holds


def test_the_worst_pair_shows_the_epsilon_that_is_claimed() -> None:
    """+C e1 against -C e1: P(out > C) is 1/2 and e^-epsilon / 2, so the measured log ratio is epsilon."""
    count = 400_000
    bench = Bench(Laplace(epsilon=1.5, clip=2.0), releases=1)
    far = torch.zeros(count, 2)
    far[:, 0] = 1e3
    gen = bench.gen()
    above = [float((bench.defense.released_like(s * far, gen)[:, 0] > 2.0).double().mean()) for s in (1, -1)]
    error = math.sqrt(sum((1 - p) / (p * count) for p in above))
    assert abs(math.log(above[0] / above[1]) - 1.5) < 4 * error < 0.05


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("mixing", [(), ("norm1",)])
@pytest.mark.parametrize("phases", [("training", "query"), ("training",), ("query",)])
def test_no_more_is_claimed_than_holds(frozen: bool, mixing: tuple[str, ...], phases: Any) -> None:
    defense = Laplace(epsilon=5.0, clip=1.0, phases=phases)
    Bench(defense, labels=Labels.CLIENT, mixing=mixing, head_frozen=frozen, releases=4)
    [told] = defense.privacy()
    training, query = "training" in phases, "query" in phases
    assert ((told.epsilon_rows is not None), (told.epsilon_query is not None)) == (training, query)
    assert (told.epsilon is not None) == (training and frozen and not mixing)
    assert (4 if training else 1) == told.T
    assert (told.epsilon_rows or told.epsilon_query) == pytest.approx(5.0)


def test_beside_gaussian_both_statements_stand() -> None:
    """Different deltas imply nothing of each other here: a pure epsilon of 400 and an (8, 1e-5) pair."""
    stack = Stack([DEFENSES.build({"laplace": {"epsilon": 400.0}}), DEFENSES.build({"gaussian": {"epsilon": 8.0}})])
    Bench(stack)
    assert [g.delta for g in stack.privacy()] == [0.0, 1e-5]


def test_what_cannot_be_protected_is_not_sent_and_a_row_too_often_neither() -> None:
    bench = Bench(Laplace(scale=1.0, clip=1.0), releases=2)
    ids = torch.arange(2)
    with pytest.raises(Diverged, match="laplace: smashed data is not finite"):
        bench.send(torch.tensor([[1.0, math.nan], [0.0, 0.0]]), ids)
    with pytest.raises(BadSetting, match=r"laplace: .*an id for each of N rows"):
        bench.send(rows(3, 2), ids)
    for _ in range(2):
        bench.send(rows(2, 3), ids)
    with pytest.raises(ReleaseRefused):
        bench.send(rows(2, 3), ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.0, "scale": 1.0}, "laplace: epsilon=1.0 and scale=1.0 were both given"),
        ({"epsilon": 0.0}, "epsilon must lie above 0"),
        ({"scale": -1.0}, "scale must lie above 0"),
        ({"scale": math.inf}, "scale must lie above 0 and below inf"),
        ({"clip": 0.0}, "clip must lie above 0"),
        ({"clip": "none"}, "no sensitivity, so no epsilon; give a clip, or scale"),
        ({"phases": ()}, "phases is empty"),
        ({"adjacency": "zeroout"}, "Did you mean 'zero-out'"),
    ],
)
def test_settings_at_odds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Laplace(**settings)


def test_in_training_each_row_is_sent_as_often_as_accounted_for() -> None:
    session = run({"laplace": {"epsilon": 30.0}}, Mode.SPLITFED, head="frozen", epochs=2)
    [told] = session.guarantees
    assert told.epsilon == told.epsilon_rows == pytest.approx(30.0)
    assert (told.T, session.releases()) == (2, 2)
    assert refuses_more(session)
