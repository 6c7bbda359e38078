# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on the head: nulls, the step's closed form, its noise, and what is claimed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard import privacy
from splitguard.api import (
    Context,
    Labels,
    Mode,
    Phase,
    Stack,
    View,
)
from splitguard.attacks.white_box_inversion import WhiteBoxInversion
from splitguard.defenses.dp_sgd_head import DpSgdHead
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.bench import Bench
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.engine import toys
from tests.engine.test_resume import Killed, killer

CTX = Context(torch.arange(4), 0, 0, 0, Phase.TRAINING)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def session(defense: DpSgdHead | Stack | None, mode: Mode = Mode.VANILLA, **how: Any) -> Session:
    cut = ("conv2", "fc1") if mode is Mode.U_SHAPED else "conv2"
    training = Training(epochs=2, batch_size=8, optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9})
    data = toys.data(2 if mode is Mode.SPLITFED else 1)
    setting = {"training": training, "mode": mode, "cut": cut, "defense": defense, **how}
    return train(toys.lenet(), data, **setting)


def step(defense: DpSgdHead, rows: Tensor, draws: torch.Generator) -> Tensor:
    """From the rows' own gradients (n, d) to n times what one step moves a linear head by, (d,)."""
    n, head = len(rows), nn.Linear(rows.shape[1], 1, bias=False)
    head.weight.data.zero_()
    optimizer = defense.optimizer(head, lambda ps: torch.optim.SGD(ps, lr=1.0))
    assert optimizer is not None
    defense.probe(torch.zeros(n), CTX, draws)
    optimizer.zero_grad()
    # The gradient of the mean of the outputs: that of a row's own output is the row itself.
    head(rows).backward(torch.full((n, 1), 1 / n))
    optimizer.step()
    return -n * head.weight.detach()[0]


def bound(releases: int = 1, **settings: Any) -> DpSgdHead:
    defense = DpSgdHead(**settings)
    Bench(defense, labels=Labels.SENT, releases=releases)
    return defense


def test_without_clip_and_noise_training_is_the_same_to_the_bit() -> None:
    assert session(None).digest == session(DpSgdHead(noise=0.0, clip="none")).digest


@pytest.mark.parametrize("mode", [Mode.VANILLA, Mode.U_SHAPED, Mode.SPLITFED])
def test_a_clip_that_nothing_reaches_is_plain_training_up_to_rounding(mode: Mode) -> None:
    """Through Opacus, with dropout, an activation in place, a smaller last batch and, in splitfed, two heads."""
    plain, clipped = session(None, mode), session(DpSgdHead(noise=0.0, clip=1e6), mode)
    assert plain.digest != clipped.digest  # another order of summing: the test would see a clip that is left out
    for name, value in plain.split.state_dict().items():
        torch.testing.assert_close(clipped.split.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_each_row_is_clipped_alone_before_the_sum() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.0], [0.0, -8.0]])
    moved = step(bound(noise=0.0, clip=2.0), rows, gen())
    torch.testing.assert_close(moved, torch.tensor([1.2 + 0.3, 1.6 - 2.0]), rtol=1e-5, atol=1e-5)


def test_the_clip_is_over_all_weights_of_the_head_together() -> None:
    """A row's gradient in weight and bias of ``w x + b`` is (x, 1): x = sqrt(3) has length 2 and is halved."""
    head, defense = nn.Linear(1, 1), bound(noise=0.0, clip=1.0)
    optimizer = defense.optimizer(head, lambda ps: torch.optim.SGD(ps, lr=1.0))
    assert optimizer is not None
    before = [p.detach().clone() for p in head.parameters()]
    defense.probe(torch.zeros(1), CTX, gen())
    optimizer.zero_grad()
    head(torch.tensor([[math.sqrt(3)]])).backward()
    optimizer.step()
    moved = [float(b - p.detach()) for b, p in zip(before, head.parameters(), strict=True)]
    assert moved == pytest.approx([math.sqrt(3) / 2, 1 / 2], rel=1e-5)


def test_the_noise_has_the_stated_spread_and_comes_from_the_sessions_generator() -> None:
    defense, n = bound(noise=1.5, clip=0.4), 20_000
    one, again, other = (step(defense, torch.zeros(5, n), gen(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    for draw in (one, other):
        assert abs(float(draw.std()) / (1.5 * 0.4) - 1) < 4 / (2 * n) ** 0.5
    assert abs(float((one * other).mean())) < 4 * 0.6**2 / n**0.5


@pytest.mark.parametrize(("adjacency", "factor"), [("replace-one", 2.0), ("zero-out", 1.0)])
def test_the_noise_for_an_epsilon_is_the_exact_one(adjacency: Any, factor: float) -> None:
    defense = bound(releases=10, epsilon=4.0, clip=0.3, adjacency=adjacency)
    assert defense._scale is not None
    assert defense._scale[1] == pytest.approx(factor * 3.419, rel=1e-3)  # Opacus' number for T = 10, Delta = 1
    [told] = defense.privacy()
    assert told.epsilon_rows == pytest.approx(4.0, rel=1e-6)
    assert (told.channel, told.T, told.sensitivity) == ("head-weights", 10, factor * 0.3)
    mu = math.sqrt(10) * factor / defense._scale[1]
    assert privacy.epsilon_of(mu, 1e-5) == pytest.approx(4.0, rel=1e-6)


def test_it_says_what_is_not_covered() -> None:
    [told] = bound(epsilon=8.0).privacy()
    assert (told.epsilon, told.epsilon_query) == (None, None)
    assert "through a body trained on this row's smashed data and label without noise" in str(told)
    assert "smashed data are sent as they are" in str(told)
    assert bound(noise=0.0, clip=1.0).privacy() == ()
    both = Stack([Gaussian(epsilon=8.0), DpSgdHead(epsilon=8.0)])
    Bench(both, labels=Labels.SENT)
    assert [g.channel for g in both.privacy()] == ["inputs", "head-weights"]


def test_copies_of_the_head_are_plain_and_names_stay() -> None:
    run = session(DpSgdHead(noise=0.5))
    assert list(run.split.state_dict()) == list(session(None).split.state_dict())
    attack = WhiteBoxInversion(steps=2)
    view = run.view(attack)
    assert isinstance(view, View)
    snapshots = view.releases.head.unique()
    for twin in (view.head(int(snapshots[0])), view.head(), copy.deepcopy(run.split.head)):
        twin.train().requires_grad_(True)
        twin(torch.rand(2, 1, 8, 8)).sum().backward()
        assert not any(hasattr(p, "grad_sample") for p in twin.parameters())
    guess = attack.run(view, gen())
    assert guess.images is not None


def test_a_saved_session_is_read_back(tmp_path: Path) -> None:
    run = session(DpSgdHead(noise=0.5))
    run.save(tmp_path / "run")
    again = Session.load(tmp_path / "run", module=toys.lenet(), data=toys.data(1), defense=DpSgdHead(noise=0.5))
    assert again.defense.privacy() == run.defense.privacy()
    assert again.guarantees == run.guarantees
    assert all(torch.equal(v, again.split.state_dict()[k]) for k, v in run.split.state_dict().items())


def test_kill_and_resume_equals_uninterrupted(tmp_path: Path) -> None:
    training = Training(epochs=2, batch_size=8, checkpoint_every=1, optimizer={"name": "adam", "lr": 0.01})
    path = tmp_path / "checkpoint.pt"
    whole = session(DpSgdHead(noise=0.5), training=training)
    with pytest.raises(Killed):
        session(DpSgdHead(noise=0.5), training=training, checkpoint=path, progress=killer(5))
    assert session(DpSgdHead(noise=0.5), training=training, checkpoint=path).digest == whole.digest


def test_a_tail_that_is_trained_without_noise_is_named() -> None:
    for labels, named in ((Labels.SENT, False), (Labels.CLIENT, True)):
        bench = Bench(DpSgdHead(epsilon=8.0), labels=labels, head_frozen=False)
        [told] = bench.defense.privacy()
        assert ("the tail, handed over with the head" in str(told)) is named
