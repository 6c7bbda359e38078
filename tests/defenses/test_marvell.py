# SPDX-License-Identifier: Apache-2.0
"""Marvell: its noise against a numerical optimiser and closed forms, as drawn, and against attacks in a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import ndtr
from torch import Tensor

from splitguard.api import BadSetting, Context, Labels, Mode, NotSupported, Phase
from splitguard.data.rows import Data
from splitguard.defenses.marvell import Classes, Marvell, Noise, detection_error, optimal_noise, sum_kl
from splitguard.engine.bench import Bench
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import Diverged
from splitguard.metrics import auc
from tests.engine.toys import lenet, rows

CASES = [
    (Classes(gap=1.0, spread=(0.1, 0.1), share=0.5, dims=10), 2.0),
    (Classes(gap=1.0, spread=(0.02, 0.3), share=0.1, dims=40), 0.5),
    (Classes(gap=1.0, spread=(0.3, 0.02), share=0.1, dims=40), 4.0),
    (Classes(gap=0.01, spread=(1e-3, 1e-5), share=0.02, dims=500), 1e-4),
    (Classes(gap=5.0, spread=(1e-6, 1.0), share=0.9, dims=3), 20.0),
    (Classes(gap=2.0, spread=(0.5, 1.5), share=0.3, dims=1), 1.0),
    (Classes(gap=2.0, spread=(0.5, 1.5), share=0.3, dims=8), 1e-3),
]


def numerically(given: Classes, power: float) -> float:
    """The least `sum_kl` that a general optimiser finds, over the logarithms of the four variances."""
    u = np.log(np.array([*given.spread, *given.spread]))
    cost = np.array([1 - given.share, given.share]) * np.array([[1], [given.dims - 1]])

    def noise(x: np.ndarray) -> Noise:
        extra = np.maximum(np.exp(x) - np.exp(u), 0)
        return Noise((extra[0], extra[1]), (extra[2], extra[3]))

    def left(x: np.ndarray) -> float:
        return float(1 - (cost.flatten() * (np.exp(x) - np.exp(u))).sum() / power)

    top = np.log(np.exp(u) + power / np.maximum(cost.flatten(), 1e-9))
    best = math.inf
    for start in (1e-3, 0.2, 0.9):
        x0 = np.log(np.exp(u) + start * power / (4 * np.maximum(cost.flatten(), 0.01)))
        found = minimize(
            lambda x: math.log(sum_kl(given, noise(x))),  # its scale varies by orders of magnitude
            x0,
            method="SLSQP",
            bounds=list(zip(u, top, strict=True)),
            constraints={"type": "ineq", "fun": left},
            options={"maxiter": 500, "ftol": 1e-13},
        )
        if left(found.x) > -1e-7:
            best = min(best, math.exp(float(found.fun)))
    return best


@pytest.mark.parametrize(("given", "power"), CASES)
def test_no_general_optimiser_finds_better_noise(given: Classes, power: float) -> None:
    noise = optimal_noise(given, power)
    assert noise.power(given) <= power * (1 + 1e-9)
    assert min(*noise.along, *noise.across) >= 0
    found = numerically(given, power)
    assert sum_kl(given, noise) == pytest.approx(found, rel=2e-5)
    assert sum_kl(given, noise) <= found * (1 + 1e-6)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 50.0])
def test_equal_classes_in_closed_form(power: float) -> None:
    # Alike in all but the mean: nothing across, the same along, and sumKL = g / (u + P).
    given = Classes(gap=2.0, spread=(0.25, 0.25), share=0.5, dims=30)
    noise = optimal_noise(given, power)
    assert noise.across == (0.0, 0.0)
    assert noise.along == pytest.approx((power, power), rel=1e-4, abs=1e-9)
    assert sum_kl(given, noise) == pytest.approx(2.0 / (0.25 + power), rel=1e-9)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    given, noise = Classes(3.0, (0.5, 0.2), 0.3, 4), Noise((0.7, 0.1), (0.0, 0.4))
    apart = torch.tensor([3.0, 0, 0, 0], dtype=torch.float64).sqrt()
    laws = []
    for c, mean in enumerate((torch.zeros_like(apart), apart)):
        variances = [given.spread[c] + noise.along[c]] + 3 * [given.spread[c] + noise.across[c]]
        laws.append(torch.distributions.MultivariateNormal(mean, torch.tensor(variances, dtype=torch.float64).diag()))
    exact = sum(float(torch.distributions.kl_divergence(laws[a], laws[1 - a])) for a in (0, 1))
    assert sum_kl(given, noise) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0, 500.0])
def test_the_bound_holds_for_the_best_test_of_two_equal_gaussians(spread: float) -> None:
    given = Classes(1.0, (spread, spread), 0.5, 7)
    divergence = sum_kl(given, Noise((0.0, 0.0), (0.0, 0.0)))
    best = float(ndtr(-1 / (2 * math.sqrt(spread))))  # half-way between the means
    assert detection_error(divergence) <= best
    assert detection_error(0.0) == 0.5
    assert detection_error(4.0) == detection_error(1e9) == 0.0
    if spread == 500:
        assert best - detection_error(divergence) < 0.01  # and it is not empty


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returned(defense: Marvell, grad: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    return defense.on_return(grad, labels, Context(labels, 0, 0, 0, Phase.TRAINING), gen(seed))


def test_without_power_every_bit_stays() -> None:
    grad = torch.randn(6, 3, 2, 2, generator=gen())
    assert returned(Marvell(power=0.0), grad, torch.arange(6) % 2) is grad


def test_the_noise_has_the_stated_covariances() -> None:
    count, dims = 20_000, 6
    labels = (torch.arange(count) % 4 == 0).long()
    scales = torch.where(labels == 1, 0.1, 0.7)[:, None]
    grad = scales * torch.randn(count, dims, generator=gen(), dtype=torch.float64)
    grad[labels == 1, 2] += 2.0
    own = [grad[labels == c] for c in (0, 1)]
    apart = own[1].mean(0) - own[0].mean(0)
    spreads = [float((g - g.mean(0)).square().mean()) for g in own]
    given = Classes(float(apart.square().sum()), (spreads[0], spreads[1]), 0.25, dims)
    noise = optimal_noise(given, 3.0 * given.gap)
    assert noise.across[1] > 0 == noise.across[0]
    added = returned(Marvell(power=3.0), grad, labels) - grad
    direction = apart / apart.norm()
    for c in (0, 1):
        drawn = added[labels == c]
        along = drawn @ direction
        across = drawn - along[:, None] * direction
        n = len(drawn)
        assert float(along.square().mean()) == pytest.approx(noise.along[c], rel=4 * (2 / n) ** 0.5)
        wanted = noise.across[c] * (dims - 1)
        assert float(across.square().sum(1).mean()) == pytest.approx(
            wanted, rel=4 * (2 / n / (dims - 1)) ** 0.5, abs=1e-20
        )


def test_the_power_grows_until_the_error_is_promised() -> None:
    grad, labels = torch.randn(64, 5, generator=gen()), torch.arange(64) % 2
    grad[labels == 1] += 3
    plain, wary = (returned(Marvell(power=0.1, error=e), grad, labels) - grad for e in (0.0, 0.45))
    assert float(wary.square().sum()) > 10 * float(plain.square().sum())


def test_a_batch_of_one_class_is_hidden_too() -> None:
    grad, ones = torch.full((8, 4), 2.0), torch.ones(8, dtype=torch.int64)
    defense = Marvell(power=1.0)
    first = returned(defense, grad, ones)  # nothing was ever seen of class 0: it counts as 0
    assert float((first - grad).square().sum(1).mean()) == pytest.approx(16.0, rel=1.5)
    assert not torch.equal(first, grad)
    returned(defense, torch.cat([grad, grad + 1]), torch.arange(16) // 8, 1)
    twin = Marvell(power=1.0)
    twin.load_state_dict(defense.state_dict())
    again = [returned(d, grad, ones, 2) for d in (defense, twin)]
    assert torch.equal(*again)
    assert float((again[0] - grad).square().sum(1).mean()) < 12  # the gap is now that to what was seen, 4


def test_one_row_that_is_not_finite_spoils_neither_the_others_nor_what_was_seen() -> None:
    defense, labels = Marvell(power=1.0), torch.arange(6) % 2
    grad = torch.randn(6, 4, generator=gen())
    with pytest.raises(Diverged, match=r"marvell: a gradient is not finite.*nothing was returned"):
        returned(defense, torch.where(torch.eye(6, 4) > 0, torch.nan, grad), labels)
    assert torch.equal(returned(defense, grad, labels), returned(Marvell(power=1.0), grad, labels))


@pytest.mark.parametrize("count", [(1, 0), (1, 1), (7, 1)])
def test_a_class_of_one_row_shows_no_spread_and_is_met(count: tuple[int, int]) -> None:
    labels = torch.tensor([0] * count[0] + [1] * count[1])
    grad = torch.randn(len(labels), 50, generator=gen())
    assert bool(torch.isfinite(returned(Marvell(), grad, labels)).all())


@pytest.mark.parametrize("settings", [{"power": -1.0}, {"power": math.inf}, {"error": 0.5}, {"error": -0.1}])
def test_settings_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"at least 0 and below (inf|0\.5)"):
        Marvell(**settings)


def test_more_classes_and_sent_labels_are_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"two classes, and this task has 3\. Use max-norm or gradient-noise"):
        Bench(Marvell(), labels=Labels.CLIENT)
    with pytest.raises(NotSupported, match=r"marvell hides labels.*Use label-dp"):
        Bench(Marvell(), labels=Labels.SENT)
    assert Bench(Marvell()).deployment.classes == 2
    assert Bench(Marvell(power=0.0)).deployment.classes == 3


def binary() -> Data:
    """A task in which class 1 is rare."""
    draws = gen(3)
    parts = [rows(count, first, draws, classes=2) for count, first in ((120, 0), (30, 1000), (24, 2000), (5, 3000))]
    for part in parts:
        part.labels.copy_((torch.arange(len(part)) % 6 == 0).long())
        part.inputs[part.labels == 1, :, :3] += 0.3
    ids = parts[0].ids
    return Data(
        name="rare", classes=2, train=parts[0], test=parts[1], aux=parts[2], query=parts[3],
        members=ids[:6], clients=(ids,), digest="rare",
    )  # fmt: skip


def trained(power: float, how: dict[str, Any]) -> Session:
    net = lenet(dropout=0.0)
    net.fc2 = torch.nn.Linear(16, 2)
    with torch.no_grad():
        net.fc2.weight.copy_(0.1 * torch.randn(2, 16, generator=gen()))
        net.fc2.bias.copy_(torch.tensor([1.0, -1.0]))  # it starts with the prior: rare rows have the long gradients
    training = Training(epochs=2, batch_size=24, optimizer={"name": "sgd", "lr": 0.02})
    return train(net, binary(), defense=Marvell(power=power), training=training, **how)


@pytest.mark.parametrize(
    ("how", "channel"),
    [
        ({"cut": "pool1", "labels": Labels.SERVER}, "cut_grad"),
        ({"mode": Mode.U_SHAPED, "cut": ("pool1", "relu3")}, "returned_grad"),
    ],
)
def test_in_a_training_neither_length_nor_direction_tells_the_rare_class(how: dict[str, Any], channel: str) -> None:
    leaks = {}
    for power in (0.0, 100.0):
        session = trained(power, how)
        context = session.transcript.releases("context")
        assert context is not None
        grad = getattr(context, channel).flatten(1).double()
        rare = session.truth(context.ids).labels == 1
        towards = grad[rare].mean(0)  # more than an attacker knows
        leaks[power] = [auc(score, rare) or 0.0 for score in (grad.norm(dim=1), grad @ towards)]
        assert session.accuracy is not None
        assert session.guarantees == ()
    assert min(leaks[0.0]) > 0.95
    assert max(leaks[100.0]) < 0.8
