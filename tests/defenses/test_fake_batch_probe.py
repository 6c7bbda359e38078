# SPDX-License-Identifier: Apache-2.0
"""Fake batches: wrong labels that train no head, the published score, an alarm with FSHA, none with honesty."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from splitguard.api import Alarm, BadSetting, Context, Exchange, Labels, Mode, NotSupported, Phase
from splitguard.defenses.fake_batch_probe import FakeBatchProbe, split_score
from splitguard.engine.bench import Bench
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.defenses.hijack import session
from tests.engine import toys

#: The task takes four epochs to be learnt; with the published share there would be too few fake batches in 99.
EARLY: dict[str, Any] = {"warm_up": 44, "share": 0.3, "window": 3}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def context(step: int, client: int = 0) -> Context:
    return Context(torch.arange(6), client, 0, step, Phase.TRAINING)


def bound(**settings: Any) -> FakeBatchProbe:
    probe = FakeBatchProbe(**settings)
    Bench(probe, labels=Labels.SENT)
    return probe


def test_labels_of_a_fake_batch_are_all_wrong_and_shifted_by_one_number() -> None:
    probe, draws, labels = bound(share=0.5, warm_up=0), gen(), torch.tensor([0, 1, 2, 2, 1, 0])
    shifts = set()
    for step in range(60):
        sent = probe.probe(labels, context(step), draws)
        if sent is not None:
            moved = (sent - labels) % 3
            assert moved.unique().numel() == 1
            shifts.add(int(moved[0]))
    assert shifts == {1, 2}


def test_the_share_is_met_after_the_warm_up_of_each_client() -> None:
    probe, draws, labels = bound(share=0.1, warm_up=20), gen(), torch.zeros(6, dtype=torch.int64)
    for client in (0, 1):
        fakes = [probe.probe(labels, context(step, client), draws) is not None for step in range(2020)]
        assert not any(fakes[:20])
        assert abs(sum(fakes) - 200) < 4 * math.sqrt(2000 * 0.1 * 0.9)


def test_a_fake_batch_trains_the_body_and_not_the_head() -> None:
    class Always(FakeBatchProbe):
        def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
            return (labels + 1) % 3

    data = toys.data(1)
    training = Training(epochs=1, batch_size=8, optimizer={"name": "sgd", "lr": 0.1})
    start = {k: v.clone() for k, v in toys.lenet().state_dict().items()}
    run = train(toys.lenet(), data, cut="conv2", defense=Always(stop=False), training=training)
    assert all(torch.equal(v, start[k]) for k, v in run.split.head.state_dict().items())
    assert not torch.equal(run.split.body.state_dict()["fc2.weight"], start["fc2.weight"])
    sent = run.transcript.releases("training")
    assert sent is not None
    assert sent.labels is not None
    assert torch.equal(sent.labels, (data.train.of(sent.ids).labels + 1) % 3)  # to the server, labels as any other


def test_without_fake_batches_training_is_the_same_to_the_bit() -> None:
    training = Training(epochs=1, batch_size=8)
    plain, off = (
        train(toys.lenet(), toys.data(1), cut="conv2", defense=d, training=training)
        for d in (None, FakeBatchProbe(share=0.0))
    )
    assert (plain.digest, off.alarms) == (off.digest, [])


def test_the_score_is_the_closed_form() -> None:
    """F opposite to R and longer, R1 and R2 alike: pi. All alike: 0. R1 and R2 apart, F as long as they are: -pi."""
    x, y = torch.eye(2, dtype=torch.float64)
    assert split_score([-2 * x, x, x], [2.0, 1.0, 1.0], [3, 1, 1]) == pytest.approx(math.pi)
    assert split_score([x, x, x], [1.0, 1.0, 1.0], [1, 1, 1]) == 0
    assert split_score([y, 2 * x, -x], [1.5, 2.0, 1.0], [1, 1, 1]) == pytest.approx(-math.pi)
    # |f - r| = |r1 - r2| = 1, angles pi/2 and 0; then |f - r| = 2, angles pi/4 and pi/2, which cancel.
    assert split_score([y, x, x], [2.5, 2.0, 1.0], [1, 1, 1]) == pytest.approx(math.pi / 4)
    assert split_score([y, x, y], [3.5, 2.0, 1.0], [1, 1, 1]) == pytest.approx(0, abs=1e-7)
    # The mean over R counts every gradient once, however many each half has.
    assert split_score([y, x, y], [2.0, 1.0, 1.0], [1, 3, 1]) == pytest.approx(math.acos(1 / math.sqrt(10)))


def test_a_server_that_ignores_labels_scores_low_and_one_that_heeds_them_high() -> None:
    """By hand: the gradient is +1 or, of an honest server that meets wrong labels, -3, with a little noise."""

    def mean(honest: bool) -> float:
        probe, draws = bound(share=0.3, warm_up=0, window=5, stop=False), gen(1)
        found = []
        for step in range(200):
            sent = probe.probe(torch.zeros(6, dtype=torch.int64), context(step), draws)
            scale = -3.0 if honest and sent is not None else 1.0
            grad = scale + 0.1 * torch.randn(6, 2, 3, 3, generator=draws)
            alarm = probe.alarm(exchange(grad, step))
            assert (alarm is None) or sent is not None  # it judges after fake batches only
            if alarm is not None:
                found.append(alarm.score)
        return sum(found) / len(found)

    assert mean(honest=True) < 0.05
    assert mean(honest=False) > 0.6


def exchange(grad: Tensor, step: int = 0) -> Exchange:
    ids = torch.arange(len(grad))
    return Exchange(0, step, Phase.TRAINING, 0, ids, smashed=torch.ones_like(grad), labels=ids % 2, cut_grad=grad)


def test_the_alarm_rises_with_fsha_and_ends_the_session() -> None:
    run = session(FakeBatchProbe(**EARLY), seed=0, hijacked=True)
    step, last = run.alarms[-1]
    assert last.stop
    assert last.score > 0.5
    assert step < 98
    assert len(run.history) < 9


def test_it_stays_calm_with_an_honest_server() -> None:
    """No alarm in 2 sessions, 20 judgements or more: a rate under 0.17 a judgement at 95 %, were they independent."""
    runs = [session(FakeBatchProbe(**EARLY), seed=seed, hijacked=False) for seed in (0, 1)]
    scores = [alarm.score for run in runs for _, alarm in run.alarms]
    assert len(scores) >= 20
    assert max(scores) < 0.5


def test_its_state_goes_on_where_it_was() -> None:
    one, draws = bound(share=0.4, warm_up=3, window=2, stop=False), gen(2)
    labels = torch.zeros(6, dtype=torch.int64)

    def play(probe: FakeBatchProbe, draws: torch.Generator, steps: range) -> list[Alarm | None]:
        out = []
        for step in steps:
            probe.probe(labels, context(step), draws)
            out.append(probe.alarm(exchange(torch.randn(6, 2, generator=gen(step)), step)))
        return out

    play(one, draws, range(20))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    twin = FakeBatchProbe(share=0.4, warm_up=3, window=2, stop=False)
    twin.load_state_dict(torch.load(file, weights_only=True))
    again = gen()
    again.set_state(draws.get_state())
    rest = play(one, draws, range(20, 40))
    assert any(alarm is not None for alarm in rest)
    assert play(twin, again, range(20, 40)) == rest


def test_it_is_refused_where_there_is_nothing_to_test() -> None:
    for labels in (Labels.CLIENT, Labels.SERVER):
        with pytest.raises(NotSupported, match=r"Use it with labels: sent, in mode vanilla or splitfed"):
            Bench(FakeBatchProbe(), labels=labels, mode=Mode.VANILLA if labels is Labels.SERVER else None)
    with pytest.raises(NotSupported, match="the head is frozen"):
        Bench(FakeBatchProbe(), labels=Labels.SENT, head_frozen=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 1.0}, "share must lie above 0 and below 1; got 1.0"),
        ({"share": -0.1}, "share must lie above 0"),
        ({"threshold": 0.0}, "threshold must lie above 0"),
        ({"warm_up": -1}, "warm_up must be a whole number of at least 0"),
        ({"window": 0}, "window must be a whole number of at least 1"),
        ({"gain": 0.0}, "gain must be positive"),
        ({"power": math.inf}, "power must be positive and finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        FakeBatchProbe(**settings)
