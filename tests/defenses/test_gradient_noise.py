# SPDX-License-Identifier: Apache-2.0
"""Accounted noise on returned gradients: nulls, closed forms, what is counted, and what is claimed in a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import BadSetting, Context, Labels, Mode, NotSupported, Phase, Stack
from splitguard.defenses.gradient_noise import GradientNoise
from splitguard.defenses.label_dp import LabelDp
from splitguard.defenses.max_norm import MaxNorm
from splitguard.engine.bench import Bench
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import Diverged, ReleaseRefused
from tests.engine.toys import data, lenet


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returned(bench: Bench, grad: Tensor, ids: Tensor | None = None, seed: int = 0) -> Tensor:
    ids = torch.arange(len(grad)) if ids is None else ids
    return bench.defense.on_return(grad, ids * 0, bench.context(ids), gen(seed))


def test_without_clip_and_noise_every_bit_stays_wherever_labels_are() -> None:
    grad = torch.randn(5, 2, 3, generator=gen())
    for labels in Labels:
        bench = Bench(GradientNoise(sigma=0.0, clip="none"), labels=labels)
        assert returned(bench, grad) is grad
        assert bench.defense.privacy() == ()


def test_rows_are_clipped_alone_and_whole() -> None:
    bench = Bench(GradientNoise(sigma=0.0, clip=1.0))
    grad = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.1, 0.0], [0.0, 0.1]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(returned(bench, grad)[0], torch.tensor([[0.6, 0.0], [0.0, 0.8]]), rtol=3e-7, atol=0)
    assert torch.equal(returned(bench, grad)[1:], grad[1:])
    assert bench.defense.privacy() == ()  # a clip alone guarantees nothing


def test_the_noise_has_the_stated_spread_and_is_fresh() -> None:
    bench = Bench(GradientNoise(sigma=0.3, clip=1.0))
    grad = torch.zeros(100, 400)
    one, two = (returned(bench, grad, seed=s) for s in (0, 1))
    n = grad.numel()
    for draw in (one, two):
        assert abs(float(draw.std()) / 0.3 - 1) < 4 / (2 * n) ** 0.5
        assert abs(float(draw.mean())) < 4 * 0.3 / n**0.5
    assert abs(float((one * two).mean())) < 4 * 0.09 / n**0.5


@pytest.mark.parametrize(("epsilon", "releases", "multiplier"), [(1, 1, 3.7306), (8, 1, 0.6002), (4, 10, 3.419)])
def test_the_noise_for_an_epsilon_is_the_known_one(epsilon: float, releases: int, multiplier: float) -> None:
    bench = Bench(GradientNoise(epsilon=epsilon, clip=0.5), releases=releases)
    noise = returned(bench, torch.zeros(200, 500))
    assert float(noise.std()) == pytest.approx(2 * 0.5 * multiplier, rel=4 / (2 * noise.numel()) ** 0.5 + 2e-4)
    [told] = bench.defense.privacy()
    assert told.epsilon_rows == pytest.approx(epsilon, rel=1e-6)
    assert (told.T, told.sensitivity, told.delta, told.channel) == (releases, 1.0, 1e-5, "labels")


@pytest.mark.parametrize(
    ("labels", "adversary"), [(Labels.CLIENT, "the server"), (Labels.SERVER, "the client whose row it is")]
)
def test_only_a_rows_own_gradients_are_claimed(labels: Labels, adversary: str) -> None:
    bench = Bench(GradientNoise(sigma=2.0, clip=1.0), labels=labels, releases=4, head_frozen=True)
    [told] = bench.defense.privacy()
    assert (told.epsilon, told.epsilon_query, told.adversary) == (None, None, adversary)
    assert told.epsilon_rows == privacy.epsilon(sigma=2.0, clip=1.0, releases=4, delta=1e-5)
    assert "layers above the cut are trained on the true labels" in str(told)


def test_the_ledger_refuses_what_was_not_planned() -> None:
    bench, grad, ids = Bench(GradientNoise(clip=1.0), releases=2), torch.ones(2, 3), torch.tensor([4, 9])
    for _ in range(2):
        returned(bench, grad, ids)
    with pytest.raises(ReleaseRefused, match="more often than planned"):
        returned(bench, grad, ids)
    returned(bench, grad, ids + 1)


def test_what_no_clip_bounds_is_not_returned() -> None:
    bench = Bench(GradientNoise(clip=1.0), releases=1)
    with pytest.raises(Diverged, match="not finite"):
        returned(bench, torch.tensor([[1.0, math.nan]]))
    returned(bench, torch.ones(1, 2))  # and it was not counted


def test_labels_that_are_sent_are_not_hidden_by_it() -> None:
    with pytest.raises(NotSupported, match=r"with labels: sent they go out as they are\. Use label-dp"):
        Bench(GradientNoise(), labels=Labels.SENT)
    assert Bench(GradientNoise()).deployment.labels is Labels.CLIENT
    with pytest.raises(NotSupported, match="call bind before training"):
        GradientNoise().on_return(
            torch.ones(1, 2), torch.zeros(1), Context(torch.zeros(1), 0, 0, 0, Phase.TRAINING), gen()
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.0, "sigma": 1.0}, "both given"),
        ({"epsilon": 0.0}, "epsilon must lie above 0"),
        ({"epsilon": math.nan}, "epsilon must lie above 0"),
        ({"sigma": -1.0}, "sigma must lie above 0"),
        ({"delta": 1.0}, "delta must lie above 0 and below 1"),
        ({"delta": 0.0}, "delta must lie above 0"),
        ({"clip": 0.0}, "clip must lie above 0"),
        ({"clip": "none"}, "no sensitivity, so no epsilon"),
        ({"clip": "auto"}, "clip must be a number or none; got 'auto'"),
    ],
)
def test_settings_at_odds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        GradientNoise(**settings)


def test_in_a_stack_what_reads_labels_afterwards_voids_it() -> None:
    def stated(*parts: Any) -> list[tuple[float | None, float | None]]:
        stack = Stack(parts)
        Bench(stack, labels=Labels.CLIENT)
        return [(g.epsilon_rows, g.epsilon) for g in stack.privacy()]

    [(alone, whole)] = stated(MaxNorm(), GradientNoise(clip=1.0))
    assert whole is None
    assert alone == pytest.approx(8.0)
    assert stated(GradientNoise(clip=1.0), MaxNorm()) == [(None, None)]
    stack = Stack([GradientNoise(clip=1.0), MaxNorm()])
    Bench(stack, labels=Labels.CLIENT)
    assert "max-norm may read the labels again, after the noise" in str(stack.privacy()[0])
    both = stated(LabelDp(epsilon=2.0), GradientNoise(clip=1.0), MaxNorm())
    assert both[0] == (2.0, 2.0)  # answers drawn before anything reads them stay what they are


WAYS: list[tuple[dict[str, Any], str]] = [
    ({"mode": Mode.U_SHAPED, "cut": ("pool1", "relu3")}, "returned_grad"),
    ({"mode": Mode.VANILLA, "cut": "pool1", "labels": Labels.SERVER}, "cut_grad"),
    ({"mode": Mode.SPLITFED, "cut": "pool1", "labels": Labels.SERVER}, "cut_grad"),
]


def run(defense: GradientNoise, how: dict[str, Any], **more: Any) -> Session:
    training = Training(epochs=3, batch_size=8, checkpoint_every=1)
    return train(lenet(), data(2), defense=defense, training=training, **how, **more)


@pytest.mark.parametrize(("how", "channel"), WAYS)
def test_what_is_returned_in_a_training_is_noisy_and_counted(how: dict[str, Any], channel: str) -> None:
    session = run(GradientNoise(sigma=0.5, clip=0.01), how)
    releases = session.transcript.releases("training")
    assert releases is not None
    grad = getattr(releases, channel)
    assert abs(float(grad.std()) / 0.5 - 1) < 4 / (2 * grad.numel()) ** 0.5 + 1e-3  # per sample, whatever the batch
    [told] = session.guarantees
    assert told.T == 3
    once = torch.zeros(1, *grad.shape[1:])
    for row in session.data.train.ids[:, None]:
        with pytest.raises(ReleaseRefused):
            session.defense.on_return(once, row * 0, Context(row, 0, 3, 99, Phase.TRAINING), gen())


def test_gradients_are_counted_by_epochs_where_smashed_data_are_sent_once() -> None:
    training = Training(epochs=3, batch_size=8, head="frozen", release="once")
    session = train(lenet(), data(2), defense=GradientNoise(epsilon=8.0), training=training, **WAYS[0][0])
    assert [g.T for g in session.guarantees if g.channel == "labels"] == [3]


def test_an_interrupted_training_goes_on_with_noise_and_ledger(tmp_path: Path) -> None:
    whole, stop = run(GradientNoise(epsilon=50.0), WAYS[0][0]), tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(GradientNoise(epsilon=50.0), WAYS[0][0], checkpoint=stop, progress=interrupt)
    resumed = run(GradientNoise(epsilon=50.0), WAYS[0][0], checkpoint=stop)
    assert (resumed.digest, resumed.guarantees) == (whole.digest, whole.guarantees)
