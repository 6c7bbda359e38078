# SPDX-License-Identifier: Apache-2.0
"""DISCO: what is pruned and what is not, whose gradients teach the pruner, and what attackers may match."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import BadSetting, Batch, Mode, NotSupported, Stack
from splitguard.defenses.disco import Disco
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.bench import Bench
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine.toys import data, lenet


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("ratio", "kept"), [(0.25, 3), (0.5, 2), (0.75, 1), (0.99, 1), (0.1, 4)])
def test_so_many_channels_are_sent_and_to_the_bit(ratio: float, kept: int) -> None:
    bench = Bench(Disco(ratio=ratio))
    smashed = torch.randn(40, *bench.smashed.shape[1:], generator=gen())
    sent = bench.send(smashed).detach()
    shown = (sent != 0).flatten(2).any(2)
    assert (shown.sum(1) == kept).all()
    assert torch.equal(sent[shown], smashed[shown])
    for told in (bench.defense.mean_release(smashed), bench.defense.released_like(smashed, bench.gen())):
        assert torch.equal(told, sent)
    for phase in ("evaluation", "query"):
        assert torch.equal(bench.send(smashed, phase=type(bench.context(torch.arange(1)).phase)(phase)), sent)


def test_the_choice_is_made_row_by_row() -> None:
    bench = Bench(Disco(ratio=0.5))
    pruner = bench.defense.modules()["pruner"]
    with torch.no_grad():
        for p in pruner.parameters():
            p.copy_(torch.randn(p.shape, generator=gen(3)))
    shown = (bench.send(10 * torch.randn(64, 4, 6, 6, generator=gen())) != 0).flatten(2).any(2)
    assert len(shown.unique(dim=0)) > 1


def test_the_pruner_gets_the_gradient_of_the_soft_choice() -> None:
    defense = Disco(ratio=0.5, temperature=0.1)
    bench = Bench(defense)
    smashed, weights = bench.smashed, torch.randn(bench.smashed.shape, generator=gen())
    pruner = defense.modules()["pruner"]
    (bench.send(smashed) * weights).sum().backward()
    got = [p.grad.clone() for p in pruner.parameters() if p.grad is not None]
    scores = pruner(smashed)
    ordered = scores.detach().sort(dim=1).values
    soft = ((scores - ordered[:, 1:3].mean(1, keepdim=True)) / 0.1).sigmoid()
    wanted = torch.autograd.grad((smashed * soft[:, :, None, None] * weights).sum(), list(pruner.parameters()))
    assert len(got) == len(wanted)
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_attackers_who_differentiate_through_it_teach_it_nothing() -> None:
    bench = Bench(Disco())
    leaf = bench.smashed.clone().requires_grad_()
    for told in (bench.defense.mean_release(leaf), bench.defense.released_like(leaf, bench.gen())):
        told.square().sum().backward()
    assert leaf.grad is not None
    assert all(p.grad is None for net in bench.defense.modules().values() for p in net.parameters())


def test_only_what_was_sent_is_matched() -> None:
    defense = Disco(ratio=0.5)
    Bench(defense)
    sent = torch.zeros(2, 3, 2, 2)
    sent[0, 1], sent[1, 0, 1, 1] = 2.0, -1.0
    made = torch.ones(2, 3, 2, 2, requires_grad=True)
    wanted = torch.zeros(2, 3, 2, 2)
    wanted[0, 1] = -1.0
    wanted[1, 0] = torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    apart = defense.residual(made, sent)
    assert torch.equal(apart, wanted)
    (grad,) = torch.autograd.grad(apart.sum(), made)
    assert torch.equal(grad, (wanted != 0).float())
    flat = defense.residual(torch.ones(1, 4), torch.tensor([[0.0, 3.0, 0.0, 1.0]]))
    assert torch.equal(flat, torch.tensor([[0.0, -2.0, 0.0, 0.0]]))


def test_the_pruner_learns_to_drop_the_channel_that_shows_the_input() -> None:
    defense = Disco(ratio=0.5, weight=1.0, lr=1e-2, width=8)
    bench = Bench(defense)
    draws = gen(4)
    weights = dict(defense.modules()["pruner"].named_parameters())
    with torch.no_grad():
        weights["score.bias"].copy_(torch.tensor([0.02, 0.01, 0.0, -0.01]))  # it begins by sending the first two
        weights["score.weight"].zero_()
    for step in range(100):
        inputs = torch.rand(16, 1, 6, 6, generator=draws)
        smashed = torch.cat([inputs, torch.rand(16, 3, 6, 6, generator=draws)], 1)
        defense.adversary_step(Batch(inputs, torch.arange(16), None), smashed, draws)
        context = bench.context(torch.arange(16))
        defense.on_send(smashed, type(context)(context.ids, 0, 0, step, context.phase), draws)
    sent = defense.mean_release(smashed)
    shares = (sent != 0).flatten(2).any(2).float().mean(0)
    assert shares[0] < 0.1
    assert float(shares.sum()) == 2.0


def test_at_ratio_0_every_bit_stays() -> None:
    bench = Bench(Disco(ratio=0.0), head_frozen=True)
    assert bench.send(bench.smashed) is bench.smashed
    assert torch.equal(bench.defense.residual(bench.smashed, bench.smashed * 0), bench.smashed)
    assert (bench.defense.modules(), bench.defense.state_dict()) == ({}, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio must be at least 0 and below 1"),
        ({"ratio": -0.1}, "ratio must be at least 0"),
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"weight": math.inf}, "weight must be at least 0 and finite"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Disco(**settings)


def test_where_it_could_not_learn_it_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"no gradient, so the pruner cannot learn.*top-k"):
        Bench(Disco(), head_frozen=True)
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        Disco().mean_release(torch.zeros(1, 2))


def test_beside_an_accounted_release_it_keeps_rows_apart() -> None:
    [alone], [told] = (_stated(*parts) for parts in ([Gaussian(clip=1.0)], [Disco(), Gaussian(clip=1.0)]))
    assert (told.epsilon_rows, told.epsilon) == (alone.epsilon_rows, None)


def _stated(*parts: Any) -> Any:
    stack = Stack(parts)
    Bench(stack)
    return stack.privacy()


def run(defense: Any, *, epochs: int = 3, **how: Any) -> Session:
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, checkpoint_every=1)
    return train(lenet(), data(2), defense=defense, training=training, **{"cut": "pool1", **how})


WAYS: list[dict[str, Any]] = [
    {"mode": Mode.VANILLA},
    {"mode": Mode.SPLITFED},
    {"mode": Mode.U_SHAPED, "cut": ("pool1", "relu3")},
]


@pytest.mark.parametrize("how", WAYS)
def test_in_a_training_the_task_teaches_the_pruner(how: dict[str, Any]) -> None:
    defense = Disco(weight=0.0)
    before: dict[str, Tensor] = {}
    bind = defense.bind

    def noted(deployment: Any) -> None:
        bind(deployment)
        before.update({k: v.clone() for k, v in defense.modules()["pruner"].state_dict().items()})

    defense.bind = noted  # type: ignore[method-assign]  # to see the weights before training
    session = run(defense, **how)
    after = defense.modules()["pruner"].state_dict()
    assert any(not torch.equal(after[k], v) for k, v in before.items())
    releases = session.transcript.releases("training")
    assert releases is not None
    assert ((releases.smashed != 0).flatten(2).any(2).sum(1) <= 2).all()


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.SPLITFED])
def test_an_interrupted_training_goes_on_to_the_same_bits(mode: Mode, tmp_path: Path) -> None:
    whole, stop = run(Disco(), mode=mode), tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Disco(), mode=mode, checkpoint=stop, progress=interrupt)
    resumed = run(Disco(), mode=mode, checkpoint=stop)
    assert resumed.digest == whole.digest
    ones, twos = (s.defense.modules()["pruner"].state_dict() for s in (whole, resumed))
    assert all(torch.equal(ones[k], twos[k]) for k in ones)
    resumed.save(tmp_path / "saved")
    loaded = Session.load(tmp_path / "saved", module=lenet(), data=data(2), defense=Disco())
    smashed = torch.randn(3, *whole.cut_shapes[0], generator=gen())
    assert torch.equal(loaded.defense.mean_release(smashed), whole.defense.mean_release(smashed))


def test_without_the_clients_layers_nobody_has_its_pruner() -> None:
    """Which channels were sent can be seen; which would be sent of another image cannot."""
    bench = Bench(Disco(ratio=0.5))
    sent = bench.send(bench.smashed).detach()
    known = bench.defense.outside()
    assert not known.modules()
    assert torch.equal(known.mean_release(bench.smashed), bench.smashed)
    assert torch.equal(known.residual(2 * sent, sent), bench.defense.residual(2 * sent, sent))
    gaussian = Gaussian(epsilon=8.0)
    stacked = Stack([bench.defense, gaussian]).outside()
    assert isinstance(stacked, Stack)
    assert stacked.defenses[1] is gaussian
    plain = Stack([gaussian])
    assert plain.outside() is plain
