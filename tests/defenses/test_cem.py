# SPDX-License-Identifier: Apache-2.0
"""CEM: the bound in closed form, its clusters, its noise, and a head that sends less through the noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Batch, Context, Mode, NotSupported, Phase
from splitguard.defenses.cem import ROWS, Cem
from splitguard.engine.bench import Bench
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine.toys import data, lenet


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(labels: Tensor | None, count: int) -> Batch:
    return Batch(torch.zeros(count, 1, 2, 2), torch.arange(count), labels)


def context(epoch: int, phase: Phase = Phase.TRAINING) -> Context:
    return Context(torch.arange(1), 0, epoch, epoch, phase)


def value(defense: Cem, smashed: Tensor, labels: Tensor | None) -> float:
    got = defense.penalty(batch(labels, len(smashed)), smashed, gen())
    assert got is not None
    return float(got)


def test_one_class_in_closed_form() -> None:
    smashed = torch.tensor([[1.0, 5.0], [3.0, 5.0], [1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    wanted = 7.0 * (math.log1p(1.0 / 0.25) + 0.0) / 2  # variance 1 in one of two coordinates, noise .25
    assert value(Cem(weight=7.0, sigma=0.5), smashed, None) == pytest.approx(wanted, rel=1e-12)


def test_it_is_twice_the_information_of_a_gaussian_through_the_noise() -> None:
    # A Monte Carlo estimate of I(z; z + n) by log densities, for z ~ N(0, 4) and sigma 1.
    n = 100_000
    z = 2 * torch.randn(n, 1, generator=gen(1), dtype=torch.float64)
    sent = z + torch.randn(n, 1, generator=gen(2), dtype=torch.float64)
    joint, alone = torch.distributions.Normal(z, 1.0), torch.distributions.Normal(0.0, 5**0.5)
    told = float((joint.log_prob(sent) - alone.log_prob(sent)).mean())
    assert value(Cem(weight=1.0, sigma=1.0), z, None) == pytest.approx(2 * told, abs=0.03)


def test_classes_are_weighted_by_their_rows_and_labels_decide() -> None:
    smashed = torch.tensor([[0.0], [2.0], [10.0], [10.0], [10.0], [10.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    assert value(Cem(weight=1.0, sigma=1.0), smashed, labels) == pytest.approx(2 / 6 * math.log(2), rel=1e-12)
    mixed = value(Cem(weight=1.0, sigma=1.0), smashed, None)
    assert mixed == pytest.approx(math.log1p(float(smashed.var(correction=0))), rel=1e-12)


def test_an_epoch_ends_in_clusters_and_rows_count_by_their_nearest_centre() -> None:
    defense = Cem(weight=1.0, sigma=1.0, clusters=2)
    centres = torch.tensor([[-20.0, 0.0], [20.0, 4.0]])
    rows = centres.repeat(60, 1) + 0.1 * torch.randn(120, 2, generator=gen())
    for part in rows.split(40):
        defense.adversary_step(batch(torch.full((len(part),), 2), len(part)), part, gen())
        defense.on_send(part, context(0), gen())
    wide = value(defense, rows, torch.full((120,), 2))  # one cluster so far
    defense.on_send(rows[:4], context(0, Phase.EVALUATION), gen())
    defense.on_send(rows[:4], context(1), gen())
    found = defense._centres[2]
    torch.testing.assert_close(found[found[:, 0].argsort()], centres, rtol=0, atol=0.1)
    spreads = torch.stack([(rows[k::2] - found[found[:, 0].argsort()][k]).square().mean(0) for k in (0, 1)])
    wanted = float(torch.log1p(spreads).mean())
    assert value(defense, rows, torch.full((120,), 2)) == pytest.approx(wanted, rel=1e-4)
    assert wanted < 0.05 < wide


def test_no_more_rows_are_kept_than_stated_and_fewer_rows_than_clusters_are_met() -> None:
    defense = Cem(clusters=3)
    defense.on_send(torch.zeros(1, 2), context(0), gen())
    many = torch.randn(ROWS + 50, 2, generator=gen())
    labels = torch.zeros(len(many), dtype=torch.int64)
    defense.adversary_step(batch(labels, len(many)), many, gen())
    defense.adversary_step(batch(labels, len(many)), many, gen())
    defense.adversary_step(batch(torch.tensor([5]), 1), many[:1], gen())
    assert [len(v) for v in defense.state_dict()["kept"].values()] == [ROWS, 1]
    defense.on_send(many, context(1), gen())
    assert {c: len(v) for c, v in defense._centres.items()} == {0: 3, 5: 1}


def test_the_noise_has_the_stated_spread_in_every_phase() -> None:
    bench, smashed = Bench(Cem(sigma=0.2)), torch.zeros(50, 4, 6, 60)
    n = smashed.numel()
    for number, phase in enumerate(Phase):
        assert abs(float(bench.send(smashed, phase=phase, stream=number).std()) / 0.2 - 1) < 4 / (2 * n) ** 0.5
    assert bench.defense.privacy() == ()  # nothing is clipped


def test_without_weight_and_noise_every_bit_stays() -> None:
    bench = Bench(Cem(weight=0.0, sigma=0.0), head_frozen=True)
    assert bench.send(bench.smashed) is bench.smashed
    bench.defense.adversary_step(bench.batch, bench.smashed, bench.gen())
    assert bench.defense.state_dict()["kept"] == {}
    Bench(Cem(weight=0.0, sigma=0.3), head_frozen=True)  # noise alone asks nothing of the head


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be a finite number"),
        ({"sigma": math.inf}, "sigma must be a finite number"),
        ({"sigma": 0.0}, "give a positive sigma, or weight=0"),
        ({"clusters": 0}, "clusters must be at least 1"),
    ],
)
def test_settings_at_odds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Cem(**settings)


def test_a_frozen_head_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"the head is frozen.*changes nothing"):
        Bench(Cem(), head_frozen=True)


def run(defense: Cem, *, epochs: int = 3, **how: Any) -> Session:
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, checkpoint_every=1)
    return train(lenet(dropout=0.0), data(2), defense=defense, training=training, **{"cut": "pool1", **how})


def test_a_head_trained_with_it_says_less_through_the_noise() -> None:
    told = []
    for weight in (0.0, 0.3):
        session = run(Cem(weight=weight, sigma=0.1), epochs=6)
        rows = session.data.test
        with torch.no_grad():
            smashed = session.split.head(rows.inputs)
        told.append(value(Cem(weight=1.0, sigma=0.1), smashed, rows.labels))
    assert told[1] < 0.8 * told[0]


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.SPLITFED])
def test_an_interrupted_training_goes_on_to_the_same_bits(mode: Mode, tmp_path: Path) -> None:
    whole, stop = run(Cem(), mode=mode), tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1 and progress.done % 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Cem(), mode=mode, checkpoint=stop, progress=interrupt)
    assert run(Cem(), mode=mode, checkpoint=stop).digest == whole.digest
