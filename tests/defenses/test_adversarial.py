# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: the penalty in closed form, who learns from it, and a head that gives away less."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Batch, Mode, NotSupported
from splitguard.defenses.adversarial import Adversarial
from splitguard.engine.bench import Bench
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import ssim
from tests.engine.toys import data, lenet


def penalty(bench: Bench, smashed: Tensor | None = None) -> Tensor:
    got = bench.defense.penalty(bench.batch, bench.smashed if smashed is None else smashed, bench.gen())
    assert got is not None
    return got


@pytest.mark.parametrize("floor", [-1.0, 0.0, 0.5])
def test_the_penalty_in_closed_form_before_anything_was_learnt(floor: float) -> None:
    bench = Bench(Adversarial(weight=2.0, floor=floor))
    public = bench.deployment.aux.inputs.mean(0, keepdim=True).expand(8, -1, -1, -1)
    wanted = 2.0 * max(float(ssim(public, bench.batch.inputs).mean()) - floor, 0.0)
    assert float(penalty(bench).detach()) == pytest.approx(wanted, abs=1e-5)
    assert bench.defense.modules() == {}  # asking before the first step makes nothing that stays


def test_the_decoder_learns_and_the_penalty_does_not_move_it() -> None:
    bench = Bench(Adversarial(floor=-1.0, lr=1e-2))
    before = float(penalty(bench).detach())
    for _ in range(40):
        bench.defense.adversary_step(bench.batch, bench.smashed, bench.gen())
    leaf = bench.smashed.clone().requires_grad_()
    after = penalty(bench, leaf)
    assert float(after.detach()) > before + 0.02
    net = bench.defense.modules()["decoder"]
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    after.backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.abs().sum() > 0)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


def test_what_is_harmless_is_not_penalised() -> None:
    bench = Bench(Adversarial(floor=0.99))
    leaf = bench.smashed.clone().requires_grad_()
    got = penalty(bench, leaf)
    got.backward()
    assert float(got.detach()) == 0.0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_at_weight_0_there_is_no_attacker() -> None:
    bench = Bench(Adversarial(weight=0.0), head_frozen=True)
    bench.defense.adversary_step(bench.batch, bench.smashed, bench.gen())
    assert bench.defense.penalty(bench.batch, bench.smashed, bench.gen()) is None
    assert (bench.defense.modules(), bench.defense.state_dict()) == ({}, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, "weight must be a finite number, 0 or more"),
        ({"weight": math.nan}, "weight must be a finite number"),
        ({"floor": 1.0}, "floor is an SSIM"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"width": 0}, "width must be at least 1"),
        ({"blocks": -1}, "blocks must be at least 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Adversarial(**settings)


def test_where_it_changes_nothing_or_has_no_images_it_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"the head is frozen.*changes nothing"):
        Bench(Adversarial(), head_frozen=True)
    deployment = Bench(Adversarial()).deployment
    with pytest.raises(BadSetting, match="decoders make images"):
        Adversarial().bind(dataclasses.replace(deployment, input_shape=(5,), aux=deployment.aux[:0]))
    with pytest.raises(NotSupported, match="call bind before training"):
        Adversarial().adversary_step(Batch(torch.zeros(1), torch.zeros(1), None), torch.zeros(1), torch.Generator())


def run(defense: Adversarial, *, epochs: int = 3, **how: Any) -> Session:
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, checkpoint_every=1)
    return train(lenet(dropout=0.0), data(2), defense=defense, training=training, **{"cut": "pool1", **how})


def test_a_head_trained_against_the_simulated_attacker_keeps_it_from_learning() -> None:
    reached = []
    for weight in (1e-6, 10.0):
        session = run(Adversarial(weight=weight, floor=-1.0, lr=5e-3, width=8, blocks=0), epochs=8)
        rows = session.data.train
        with torch.no_grad():
            images = session.defense.modules()["decoder"](session.split.head(rows.inputs))
        reached.append(float(ssim(images, rows.inputs).mean()))
    assert reached[1] < reached[0] - 0.05


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.SPLITFED])
def test_an_interrupted_training_goes_on_to_the_same_bits(mode: Mode, tmp_path: Path) -> None:
    whole, stop = run(Adversarial(weight=1.0, floor=-1.0), mode=mode), tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Adversarial(weight=1.0, floor=-1.0), mode=mode, checkpoint=stop, progress=interrupt)
    assert run(Adversarial(weight=1.0, floor=-1.0), mode=mode, checkpoint=stop).digest == whole.digest
    assert whole.guarantees == ()
