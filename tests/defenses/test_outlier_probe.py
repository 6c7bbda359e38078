# SPDX-License-Identifier: Apache-2.0
"""The outlier probe: what it rehearses, what of a gradient it looks at, FSHA found, honest servers let be."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch

from splitguard.api import BadSetting, Exchange, Labels, NotSupported, Phase
from splitguard.building.detection import gradient_shape
from splitguard.building.rehearsal import rehearse
from splitguard.data.rows import Rows
from splitguard.defenses.outlier_probe import OutlierProbe
from splitguard.engine.bench import Bench
from splitguard.engine.cut import split
from tests.defenses.hijack import STEPS, session
from tests.engine import toys

LIKE_THE_SESSION: dict[str, Any] = {"lr": 0.02, "steps": 60}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_four_numbers_are_the_closed_form() -> None:
    """Rows x, x (one label) and -3 x (another): alike 1, opposite 0, |mean| = 1/3 of 5/3, 5/3 over sqrt(11/3)."""
    grad = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-3.0, 0.0]])
    shape = gradient_shape(grad, torch.tensor([0, 0, 1]))
    assert shape is not None
    torch.testing.assert_close(
        shape, torch.tensor([1, 0, 1 / 5, 5 / 3 / math.sqrt(11 / 3)], dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_they_do_not_depend_on_scale_or_basis() -> None:
    grad, labels = torch.randn(10, 3, 4, generator=gen(), dtype=torch.float64), torch.arange(10) % 3
    turn = torch.linalg.qr(torch.randn(12, 12, generator=gen(1), dtype=torch.float64))[0]
    plain, turned = gradient_shape(grad, labels), gradient_shape(1e-9 * grad.flatten(1) @ turn, labels)
    assert plain is not None
    torch.testing.assert_close(turned, plain, rtol=1e-9, atol=1e-9)


def rehearsed(rows: Rows, seed: int = 0, **how: Any) -> torch.Tensor:
    network = split(toys.lenet(), ("conv2",))
    setting = {"steps": 12, "batch_size": 8, "lr": 0.05, "momentum": 0.9, **how}
    return rehearse(network.head, network.body, rows, generator=gen(seed), **setting)


def test_a_rehearsal_changes_no_network_and_draws_from_its_generator() -> None:
    rows, before = toys.data(1).aux, torch.get_rng_state()
    assert torch.equal(rehearsed(rows), rehearsed(rows))
    assert not torch.equal(rehearsed(rows), rehearsed(rows, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    network, fresh = split(toys.lenet(), ("conv2",)), toys.lenet().state_dict()
    rehearse(network.head, network.body, rows, steps=3, batch_size=8, lr=1.0, momentum=0.0, generator=gen())
    assert all(torch.equal(v, fresh[k.partition(".")[2]]) for k, v in network.state_dict().items())


def test_a_rehearsal_without_pairs_is_refused() -> None:
    aux = toys.data(1).aux
    with pytest.raises(BadSetting, match="needs 3 batches with rows of one label and rows of several; got 0 of 12"):
        rehearsed(aux[aux.labels == 1])


def judge(**settings: Any) -> OutlierProbe:
    """Rehearsed by hand: batches of two classes that pull apart."""
    probe = OutlierProbe(**{"window": 4, "stop": False, **settings})
    probe._learn(torch.stack([s for i in range(40) if (s := gradient_shape(*batch(i))) is not None]))
    return probe


def batch(seed: int, *, honest: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(8) % 2
    pull = (2 * labels - 1.0)[:, None] if honest else 1.0
    return torch.randn(8, 6, generator=gen(seed)) + pull, labels


def exchange(seed: int, *, honest: bool = True, client: int = 0, scale: float = 1.0) -> Exchange:
    grad, labels = batch(seed, honest=honest)
    ids = torch.arange(8)
    return Exchange(0, 0, Phase.TRAINING, client, ids, smashed=grad, labels=labels, cut_grad=scale * grad)


def test_more_than_half_of_a_clients_window_must_be_outliers() -> None:
    probe = judge()
    for seed in range(100, 104):
        honest = probe.alarm(exchange(seed, scale=1e-6))  # the scale of a gradient says nothing
    assert honest is not None
    assert honest.score == 0
    scores = []
    for seed in range(200, 204):
        alarm = probe.alarm(exchange(seed, honest=False))
        assert alarm is not None
        scores.append(alarm.score)
        assert probe.alarm(exchange(seed, client=1)) is None or seed == 203  # a window of its own
    assert scores == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_with_all_as_neighbours_an_intruder_is_not_seen() -> None:
    """Why it departs from the published number of neighbours: each is as far off as the farthest."""
    few, all_of_them = judge(window=1), judge(window=1, neighbours=1000)
    far = [exchange(seed, honest=False) for seed in range(300, 310)]
    found = [[d.alarm(e) for e in far] for d in (few, all_of_them)]
    assert sum(a.score for a in found[0] if a) > sum(a.score for a in found[1] if a)


def test_the_alarm_rises_with_fsha_and_ends_the_session() -> None:
    run = session(OutlierProbe(**LIKE_THE_SESSION), seed=0, hijacked=True)
    step, alarm = run.alarms[-1]
    assert alarm.stop
    assert alarm.score > 0.5
    assert step <= 20  # the window of 10, and batches of one class


def test_it_stays_calm_with_an_honest_server() -> None:
    """No alarm in 2 sessions, 140 judgements or more: a rate under 0.03 a judgement at 95 %, were they independent."""
    runs = [session(OutlierProbe(**LIKE_THE_SESSION), seed=seed, hijacked=False) for seed in (0, 1)]
    scores = [alarm.score for run in runs for _, alarm in run.alarms]
    assert 140 <= len(scores) <= 2 * STEPS
    assert max(scores) < 0.5


def test_its_state_goes_on_without_another_rehearsal() -> None:
    one, two = judge(), OutlierProbe(window=4, stop=False)
    for seed in range(3):
        one.alarm(exchange(seed, honest=seed > 0))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    rest = [exchange(seed, honest=seed % 2 > 0) for seed in range(400, 410)]
    found = [one.alarm(e) for e in rest]
    assert found == [two.alarm(e) for e in rest]
    assert len({a.score for a in found if a}) > 1


def test_where_it_cannot_rehearse_it_says_so() -> None:
    with pytest.raises(NotSupported, match="outlier-probe tests a server against labels that the client sends"):
        Bench(OutlierProbe(), labels=Labels.CLIENT)
    with pytest.raises(NotSupported, match="the head is frozen"):
        Bench(OutlierProbe(), labels=Labels.SENT, head_frozen=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 2}, "steps must be a whole number of at least 3"),
        ({"window": 0}, "window must be a whole number of at least 1"),
        ({"neighbours": 0}, "neighbours must be a whole number of at least 1"),
        ({"threshold": 0.0}, "threshold must lie above 0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"factor": 1.0}, "factor above 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        OutlierProbe(**settings)
