# SPDX-License-Identifier: Apache-2.0
"""The joint likelihood against loops over releases, and what averaging is worth, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import Defense, Releases, View
from splitguard.building.likelihood import JointLikelihood
from splitguard.building.optimise import optimise_inputs
from splitguard.building.simulate import unaware
from splitguard.errors import MissingKnowledge
from tests.attacks.views import Halved, Noise, convs, gen, network, sent_view, smooth

LINEAR = (nn.Flatten(), nn.Linear(64, 80))


def by_loop(view: View, inputs: Tensor, variance: Tensor, made_by: Sequence[nn.Module]) -> Tensor:
    """Every release by itself, nothing averaged."""
    rows, out = view.releases, inputs.new_zeros(len(view.ids))
    for e in range(len(rows)):
        n = int(rows.ids[e]) - 100
        made = view.defense.mean_release(made_by[int(rows.head[e])](inputs[n : n + 1]))
        out[n] += ((made[0] - rows.smashed[e]).square() / variance).sum()
    return out


@pytest.mark.parametrize("made_by", [[[0, 1, 2], [1, 2, 3], [0, 2, 3]], [[0, 0, 2], [1, 1, 1], [3]], [[2], [2], [2]]])
def test_the_misfit_is_the_sum_over_all_releases_up_to_what_no_input_changes(made_by: list[list[int]]) -> None:
    # In float64, because two misfits may be nearly the same.
    made, x = [head.double() for head in convs(4)], smooth(3).double()
    view = sent_view(x, made, made_by, defense=Noise(0.3), aux=smooth(40, seed=50).double())
    likelihood = JointLikelihood.of(view, releases=8)
    misfit, variance = likelihood.misfit(0.5), (likelihood.noise + 0.5 * likelihood.signal).expand(3, 2, 2)
    one, two = smooth(3, seed=4).double(), smooth(3, seed=8).double()
    ours = misfit(one) - misfit(two)
    assert torch.allclose(ours, by_loop(view, one, variance, made) - by_loop(view, two, variance, made), rtol=1e-9)
    distinct = all(len(set(own)) == len(own) for own in made_by)
    if distinct:
        assert torch.allclose(misfit(one), by_loop(view, one, variance, made), rtol=1e-9)


def test_candidates_get_the_misfit_they_would_get_one_by_one() -> None:
    made, x = convs(4), smooth(3)
    likelihood = JointLikelihood.of(sent_view(x, made, [[0, 1], [1, 2], [3]], defense=Noise(0.3)), releases=8)
    candidates = smooth(5, seed=20)
    singles = [likelihood.misfit(0.1)(c.expand(3, *c.shape)) for c in candidates]
    assert torch.allclose(likelihood.over(candidates, 0.1), torch.stack(singles, 1), rtol=1e-5)


def test_a_noiseless_truth_fits_perfectly_and_through_the_defense() -> None:
    made, x = convs(3), smooth(4)
    view = sent_view(x, made, [[0, 1], [1], [2], [0, 2]], defense=Halved())
    # Rounding of float32, squared, over the variance of a signal that is nearly dead.
    assert float(JointLikelihood.of(view, releases=8).misfit(1.0)(x).max()) < 1e-6
    naive = sent_view(x, made, [[0, 1], [1], [2], [0, 2]], defense=Halved(), adaptive=False)
    likelihood = JointLikelihood.of(naive, releases=8)
    assert likelihood.head.tolist() == [1, 1, 2, 2]
    assert float(likelihood.misfit(1.0)(x).min()) > 1


@pytest.mark.parametrize("adaptive", [True, False])
def test_what_a_dead_head_is_said_to_have_sent_fits_every_input_alike(adaptive: bool) -> None:
    """As of a head that noise killed in training: what crossed was noise alone, over a signal of 0."""
    dead, x = convs(1), smooth(4)
    for parameter in dead[0].parameters():
        parameter.data.zero_()
    view = sent_view(x, dead, [[0], [0], [0], [0]], defense=Noise(0.3), adaptive=adaptive)
    rows = view.releases
    noisy = replace(view, _releases=replace(rows, smashed=torch.randn(rows.smashed.shape, generator=gen(3))))
    misfit = JointLikelihood.of(noisy, releases=8).misfit(0.1)
    one, two = misfit(smooth(4, seed=4)), misfit(smooth(4, seed=8))
    assert bool(torch.isfinite(one).all())
    assert torch.equal(one, two)


def test_many_releases_beat_one_by_their_number() -> None:
    """A linear head, noise far below the range: the error of least squares is sigma^2 tr((W^T W)^-1), over T."""
    made, x, sigma = [network(s, LINEAR) for s in range(8)], smooth(40), 0.02

    def error(made_by: list[int], seed: int) -> float:
        view = sent_view(x, made, [made_by] * len(x), defense=Noise(sigma), seed=seed)
        misfit = JointLikelihood.of(view, releases=8).misfit(1e-9)
        found = optimise_inputs(misfit, torch.full_like(x, 0.5), steps=300, low=-9, high=9, tolerance=1e-6)
        return float((found.inputs - x).square().flatten(1).sum(1).mean())

    def expected(made_by: list[int]) -> float:
        weights = torch.cat([next(p for p in made[h].parameters() if p.ndim == 2) for h in made_by]).double()
        return sigma**2 * float(torch.linalg.inv(weights.T @ weights).trace())

    frozen, different = [7] * 8, list(range(8))
    assert error(frozen, 1) == pytest.approx(expected([7]) / 8, rel=0.35)
    assert error(different, 3) == pytest.approx(expected(different), rel=0.15)
    assert error([7], 2) == pytest.approx(expected([7]), rel=0.35)


def test_noise_that_is_not_told_is_estimated_from_fresh_draws() -> None:
    """128 auxiliary rows of 12 units: within five standard errors of a variance."""
    made, x = convs(1), smooth(2)
    aux = smooth(200, seed=3)
    told = JointLikelihood.of(sent_view(x, made, [[0], [0]], defense=Noise(0.3), aux=aux), releases=1)
    found = JointLikelihood.of(sent_view(x, made, [[0], [0]], defense=Noise(0.3, told=False), aux=aux), releases=1)
    assert torch.equal(told.noise, torch.full_like(told.noise, 0.3**2))
    assert float((found.noise / 0.09 - 1).abs().max()) < 5 * (2 / (128 * 4)) ** 0.5
    without = JointLikelihood.of(sent_view(x, made, [[0], [0]], aux=aux), releases=1)
    assert float(without.noise.max()) == 0


def test_pseudo_victims_go_through_the_same_heads_as_often() -> None:
    made, x = convs(3), smooth(3)
    view = sent_view(x, made, [[0, 1, 1], [2, 2, 2], [0]], defense=Noise(0.2))
    likelihood, known = JointLikelihood.of(view, releases=8), smooth(2, seed=30)
    pretended = likelihood.pretend(known, gen())
    assert pretended.head.tolist() == [0, 1, 2]
    assert pretended.count.tolist() == [1, 2, 3]
    clean = torch.cat([made[0](known[:1]), made[1](known[:1]), made[2](known[1:])])
    spread_of = (pretended.smashed - clean).square().flatten(1).mean(1) * pretended.count
    assert float((spread_of / 0.04 - 1).abs().max()) < 5 * (2 / 12) ** 0.5


def test_who_knows_of_no_defense_may_still_be_shown_what_it_sends() -> None:
    """The two ways of an adaptive attacker are compared on the same thing: pseudo-victims sent through the defense."""
    x, heads = smooth(3), convs(2)
    view = sent_view(x, heads, [[0, 1]] * 3, defense=Noise(0.5))
    static = unaware(view)
    assert static is not None
    plain = JointLikelihood.of(static, releases=1)
    assert plain.head.tolist() == [1] * 3
    truth = smooth(2, seed=9)
    made = heads[1](truth)
    assert torch.equal(plain.pretend(truth, gen()).smashed, made)
    shown = plain.pretend(truth, gen(), by=view)
    assert torch.equal(shown.smashed, made + 0.5 * torch.randn(made.shape, generator=gen()))
    wrong = shown.misfit(1.0)(truth)
    expected = (shown.smashed - made).square() / plain.signal  # no variance of noise in it: it knows of none
    assert torch.allclose(wrong, expected.flatten(1).sum(1), rtol=1e-4)


def test_there_is_one_way_only_where_there_is_nothing_to_know() -> None:
    class Trained(Defense):
        def penalty(self, batch: object, smashed: Tensor, generator: torch.Generator) -> Tensor:
            return smashed.sum()

    noisy, open_, trained = (sent_view(smooth(1), convs(1), [[0]], defense=d) for d in (Noise(1), Defense(), Trained()))
    assert unaware(open_) is None
    assert unaware(trained) is None
    assert unaware(replace(noisy, adaptive=False)) is None
    for found in (unaware(noisy), unaware(trained, ("penalty",))):
        assert found is not None
        assert not found.adaptive


def test_victims_by_position_and_repeated() -> None:
    made, x = convs(3), smooth(3)
    likelihood = JointLikelihood.of(sent_view(x, made, [[0, 1], [2], [1]], defense=Noise(0.2)), releases=8)
    inputs = smooth(3, seed=5)
    all_of = likelihood.misfit(0.1)(inputs)
    chosen = torch.tensor([2, 0])
    assert torch.allclose(likelihood.of_victims(chosen).misfit(0.1)(inputs[chosen]), all_of[chosen])
    slacks = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.7, 0.7])
    twice = likelihood.repeat(2).misfit(slacks)(inputs.repeat(2, 1, 1, 1))
    assert torch.allclose(twice, torch.cat([all_of, likelihood.misfit(0.7)(inputs)]), rtol=1e-5)
    assert torch.equal(likelihood.latest(), likelihood.smashed[[1, 2, 3]])


def test_releases_are_capped_evenly_with_the_last_among_them() -> None:
    made = convs(6)
    view = sent_view(smooth(1), made, [[0, 1, 2, 3, 4, 5]])
    assert JointLikelihood.of(view, releases=1).head.tolist() == [5]
    assert JointLikelihood.of(view, releases=2).head.tolist() == [0, 5]
    assert JointLikelihood.of(view, releases=3).head.tolist() == [0, 2, 5]


def test_a_head_that_was_not_kept_is_left_out_or_replaced_by_the_deployed_one() -> None:
    made = convs(3)
    likelihood = JointLikelihood.of(sent_view(smooth(2), made, [[-1, 1], [-1, -1]]), releases=8)
    assert likelihood.head.tolist() == [1, -1]
    assert float(likelihood.misfit(1.0)(smooth(2))[1]) < 1e-6


def test_a_victim_that_was_never_sent_is_named() -> None:
    view = sent_view(smooth(2), convs(1), [[0], [0]])
    rows: Releases = view.releases
    view._releases = rows.where(rows.ids == 100)
    with pytest.raises(MissingKnowledge, match="no release of the victim with id 101"):
        JointLikelihood.of(view, releases=1)


LAPLACE = Noise(0.3, law="laplace")


def test_laplace_noise_is_judged_by_absolute_differences_where_that_is_asked_for() -> None:
    made, x, candidates = convs(2), smooth(2), smooth(5, seed=20)
    view = sent_view(x, made, [[0, 0], [1]], defense=LAPLACE)
    rows, brute = view.releases, torch.zeros(2, 5)
    for e in range(len(rows)):
        apart = made[int(rows.head[e])](candidates) - rows.smashed[e]
        brute[int(rows.ids[e]) - 100] += 2 * 2**0.5 * (apart.abs() / 0.3).flatten(1).sum(1)
    exact = JointLikelihood.of(view, releases=8, exact=True)
    assert exact.count.tolist() == [1, 1, 1]
    assert torch.allclose(exact.over(candidates, 1e-9), brute, rtol=1e-4)
    singles = torch.stack([exact.misfit(1e-9)(c.expand(2, *c.shape)) for c in candidates], 1)
    units = made[0](x)[0].numel()
    assert float((brute - singles).min()) > 0  # rounded off at the bottom, by less than this a unit and release
    assert float((brute - singles).max()) < 2 * 2**0.5 * 0.1 * units * 2
    for other in (JointLikelihood.of(view, releases=8), JointLikelihood.of(view, releases=1, exact=True)):
        assert other.count.tolist()[0] == 2  # more than may be looked at one by one: their mean
    gaussian = sent_view(x, made, [[0, 0], [1]], defense=Noise(0.3))
    assert not JointLikelihood.of(gaussian, releases=8, exact=True).exact


def test_releases_that_repeat_each_other_count_once() -> None:
    made, x = convs(1), smooth(2)
    assert JointLikelihood.of(sent_view(x, made, [[0] * 6, [0]]), releases=8).count.tolist() == [1, 1]
    noisy = sent_view(x, made, [[0] * 6, [0]], defense=Noise(0.2))
    assert JointLikelihood.of(noisy, releases=8).count.tolist() == [6, 1]


def test_auxiliary_images_are_sent_as_often_as_what_came_last() -> None:
    made, x, known = convs(2), smooth(3), smooth(64, seed=5)
    for exact, noise in ((False, Noise(0.2)), (True, LAPLACE)):
        view = sent_view(x, made, [[0, 1, 1, 1, 1]] * 3, defense=noise)
        likelihood = JointLikelihood.of(view, releases=8, exact=exact)
        mine = view.releases.where((view.releases.ids == 101) & (view.releases.head == 1))
        assert torch.allclose(likelihood.latest()[1], mine.smashed.mean(0))
        spread = (likelihood.like_latest(known, gen()) - made[1](known)).square().mean()
        assert float(spread) == pytest.approx(noise.sigma**2 / 4, rel=0.2)


@pytest.mark.parametrize("count", [0, 1])
def test_variances_want_two_auxiliary_rows(count: int) -> None:
    view = sent_view(smooth(2), convs(1), [[0], [0]], aux=smooth(2)[:count])
    with pytest.raises(MissingKnowledge, match=f"2 auxiliary rows or more; this adversary has {count}"):
        JointLikelihood.of(view, releases=1)
