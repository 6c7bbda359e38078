# SPDX-License-Identifier: Apache-2.0
"""Learnt noise: what it is driven to, by a stand-in whose optimum is known, and the bugs of the code in use."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from splitguard.api import BadSetting, NotSupported, Phase
from splitguard.building.likelihood import JointLikelihood
from splitguard.defenses.shredder import Shredder, learn_noise
from splitguard.engine.bench import Bench
from tests.attacks.views import convs, sent_view, smooth
from tests.defenses.test_in_training import run


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=gen())


def apart(one: Tensor, two: Tensor) -> Tensor:
    """Distances by differences: products lose small ones."""
    return torch.cdist(one, two, compute_mode="donot_use_mm_for_euclid_dist")


def test_with_no_members_every_bit_stays() -> None:
    bench, smashed = Bench(Shredder(count=0)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)
    assert torch.equal(bench.defense.residual(smashed, 0 * smashed), smashed)


def first_coordinate(width: int = 4) -> nn.Linear:
    """A body that looks at coordinate 0 alone, and decides by its sign."""
    body: nn.Linear = nn.utils.skip_init(nn.Linear, width, 2)
    with torch.no_grad():
        body.weight.zero_()[1, 0] = 4.0
        body.bias.zero_()
    return body


def learnt(weight: float, steps: int = 150, *, width: int = 4) -> tuple[Tensor, Tensor, nn.Linear]:
    """Noise before and after, of 32 members, and the body."""
    smashed = rows(256, width)
    first = torch.randn(32, width, generator=gen(1))
    body = first_coordinate(width)
    labels = (smashed[:, 0] > 0).long()
    return (
        first,
        learn_noise(first, smashed, labels, body, weight=weight, steps=steps, rate=0.02, generator=gen(2)),
        body,
    )


def test_noise_grows_where_the_body_does_not_look_and_shrinks_where_it_does() -> None:
    first, last, _ = learnt(0.1)
    assert float(last[:, 0].abs().mean()) < 0.6 * float(first[:, 0].abs().mean())
    assert float(last[:, 1:].abs().mean()) > 1.1 * float(first[:, 1:].abs().mean())


def test_a_larger_weight_makes_louder_noise() -> None:
    """Fails where the term has no effect (its gradient zeroed before the step) and where its sign is wrong."""
    # In the one coordinate that the body looks at, where the task holds against it.
    quiet, some, loud = (float(learnt(weight, width=1)[1].square().mean()) for weight in (0.0, 0.1, 1.0))
    assert 2 * quiet < some
    assert 2 * some < loud


def test_the_noise_is_what_is_trained_and_the_body_is_not() -> None:
    """Fails where the optimiser holds frozen parameters only."""
    first, last, body = learnt(0.1, steps=1)
    assert bool((last != first).any(1).all())
    torch.testing.assert_close((last - first).abs().max(), torch.tensor(0.02), rtol=0.01, atol=0)  # Adam's first step
    for given, kept in zip(first_coordinate().parameters(), body.parameters(), strict=True):
        assert torch.equal(given, kept)
        assert kept.grad is None


def test_without_the_term_noise_only_gives_way_to_the_task() -> None:
    first, last, body = learnt(0.0)
    smashed, labels = rows(256, 4), (rows(256, 4)[:, 0] > 0).long()
    assert torch.equal(first[:, 1:], last[:, 1:])  # no gradient, so Adam does not move them
    lost = [float(cross_entropy(body(smashed + n[5]), labels).detach()) for n in (first, last)]
    assert lost[1] < lost[0]


def test_it_ends_where_the_loss_is_least() -> None:
    """One coordinate, one member, all rows alike: the optimum of CE(z + n) - w log n^2 is found on a grid."""
    smashed, labels, weight = torch.ones(8, 1), torch.ones(8, dtype=torch.int64), 0.3
    body = nn.utils.skip_init(nn.Linear, 1, 2)
    with torch.no_grad():
        body.weight.copy_(torch.tensor([[0.0], [2.0]]))
        body.bias.zero_()
    grid = torch.linspace(-6, -0.01, 6000)[:, None]
    with torch.no_grad():
        losses = cross_entropy(body(1 + grid), torch.ones(6000, dtype=torch.int64), reduction="none")
        best = float(grid[(losses - weight * grid[:, 0].square().log()).argmin()])
    found = learn_noise(
        torch.tensor([[-2.0]]), smashed, labels, body, weight=weight, steps=600, rate=0.01, generator=gen()
    )
    assert float(found) == pytest.approx(best, abs=0.02)


def test_it_begins_as_laplace_of_the_stated_spread() -> None:
    bench = Bench(Shredder(steps=0, count=400, start=0.5))
    seen = bench.network.head(bench.deployment.aux.inputs).detach()
    members = bench.defense.state_dict()["collection"]
    loud, n = float(seen.square().mean().sqrt()), members.numel()
    assert abs(float(members.var()) / (0.5 * loud) ** 2 - 1) < 4 * (5 / n) ** 0.5
    kurtosis = float(members.pow(4).mean() / members.square().mean() ** 2)
    assert kurtosis == pytest.approx(6, abs=0.6)


def test_another_session_learns_another_collection() -> None:
    one, two = Shredder(steps=2), Shredder(steps=2)
    bench = Bench(one)
    two.wrap(bench.network, gen(7))
    two.bind(bench.deployment)
    assert not torch.equal(one.state_dict()["collection"], two.state_dict()["collection"])


def test_each_row_gets_a_member_drawn_uniformly_and_afresh() -> None:
    bench = Bench(Shredder(count=4, steps=2))
    members = bench.defense.state_dict()["collection"]
    one, count = bench.smashed[:1], 8000
    for phase in Phase:
        sent = bench.send(one.expand(count, *one.shape[1:]), phase=phase)
        near = apart((sent - one).flatten(1), members.flatten(1))
        assert float(near.min(1).values.max()) < 1e-5
        shares = near.argmin(1).bincount(minlength=4) / count
        assert bool(((shares - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / count)).all())


def test_the_residual_cancels_the_member_that_fits_best() -> None:
    bench = Bench(Shredder(count=5, steps=2))
    members, made = bench.defense.state_dict()["collection"], bench.smashed
    sent = bench.send(made)
    torch.testing.assert_close(bench.defense.residual(made, sent), 0 * made, rtol=0, atol=1e-6)
    guess = made + 0.3 * torch.randn(made.shape, generator=gen())
    every = (guess[:, None] + members - sent[:, None]).flatten(2).square().sum(2)
    torch.testing.assert_close(bench.defense.residual(guess, sent).flatten(1).square().sum(1), every.min(1).values)


def test_an_attacker_who_knows_the_collection_is_at_rest_at_the_truth() -> None:
    heads, x = convs(1), smooth(3)
    defense = Shredder(count=4)
    defense.load_state_dict({"collection": rows(4, *heads[0](x).shape[1:])})
    aware, naive = (
        JointLikelihood.of(sent_view(x, heads, [[0], [0], [0]], defense=defense, adaptive=adaptive), releases=1)
        for adaptive in (True, False)
    )
    assert float(aware.misfit(0.1)(x).max()) < 1e-6
    assert float(naive.misfit(0.1)(x).min()) > 1


def test_without_rows_or_a_reaction_nothing_is_learnt() -> None:
    deployment = Bench(Shredder(count=1, steps=0)).deployment
    dead = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Threshold(9, 0))
    for change in ({"aux": deployment.aux[:0]}, {"head": dead}):
        with pytest.raises(BadSetting, match=r"root mean square must be positive and finite"):
            Shredder().bind(dataclasses.replace(deployment, **change))
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        Shredder().mean_release(rows(2, 3))


@pytest.mark.parametrize("setting", ["weight", "count", "steps", "rate", "start", "rows"])
def test_settings_outside_their_range_are_refused(setting: str) -> None:
    settings: dict[str, Any] = {setting: -1}
    with pytest.raises(BadSetting, match=f"{setting} must be finite and at least"):
        Shredder(**settings)


def test_in_training_members_of_the_collection_cross() -> None:
    session = run({"shredder": {"count": 6, "steps": 40}}, head="frozen", epochs=4)
    members = session.defense.state_dict()["collection"].flatten(1)
    found = session.transcript.releases("training")
    assert found is not None
    found, times = found.all_of(session.data.members)
    with torch.no_grad():
        made = session.split.head.eval()(session.truth(session.data.members).inputs).repeat_interleave(times, 0)
    near = apart((found.smashed - made).flatten(1), members)
    assert float(near.min(1).values.max()) < 1e-4
    assert len(near.argmin(1).unique()) > 3
    assert session.guarantees == ()
