# SPDX-License-Identifier: Apache-2.0
"""How often each label occurs in a batch: in closed form, against a planted bug, and in real training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from splitguard.api import ATTACKS, BadSetting, Mode, NotSupported
from splitguard.building.updates import LastLayer, last_layers
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.attacks.update_views import Step, labels_of, steps_of, update_view
from tests.attacks.views import gen, network
from tests.engine import toys

WIDTH, CLASSES = 64, 10


def llg(**settings: Any) -> Any:
    return ATTACKS.build("llg", **settings)


def layer_of(bias_grad: Tensor, rows: int, *, sum_of_input: float = 1.0, bias: bool = True) -> LastLayer:
    """A layer with weights 0, whose inputs all add up to ``sum_of_input``: its row sums are so many bias gradients."""
    weight_grad = bias_grad[:, None] * torch.full((1, WIDTH), sum_of_input / WIDTH)
    return LastLayer(
        ids=torch.arange(rows),
        weight=torch.zeros(len(bias_grad), WIDTH),
        bias=torch.zeros(len(bias_grad)) if bias else None,
        weight_grad=weight_grad,
        bias_grad=bias_grad if bias else None,
        scaled=True,
        exact=True,
    )


def counted(labels: Tensor, classes: int = CLASSES) -> Tensor:
    return torch.bincount(labels, minlength=classes)


def overlap(attack: Any, steps: list[list[Step]], **how: Any) -> float:
    """The share of all labels that is counted right, batch by batch."""
    view = update_view(how.pop("tail", tail()), steps, CLASSES, **how)
    right = total = 0
    for layer, own in zip(last_layers(view), steps, strict=True):
        truth = counted(labels_of([own]))
        found = attack.counts(layer, gen(5))
        assert found.sum() == truth.sum()
        right += int(torch.minimum(found, truth).sum())
        total += len(layer.ids)
    return right / total


def tail(*, lean: float = 0.0, bias: bool = True) -> nn.Sequential:
    """A linear tail; ``lean`` makes it prefer some classes before it has seen anything."""
    made = network(3, [nn.Linear(WIDTH, CLASSES, bias=bias)])
    if lean:
        made.get_parameter("0.bias").add_(torch.randn(CLASSES, generator=gen(9)), alpha=lean)
    return made


def batches(count: int, rows: int) -> list[list[Step]]:
    return [[step] for step in steps_of(count, rows, WIDTH, CLASSES, seed=rows)]


@settings(max_examples=60)
@given(labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=40), passes=st.sampled_from([0, 3]))
def test_an_untrained_layer_gives_every_count(labels: list[int], passes: int) -> None:
    """Predictions are 1/K for all rows: the bias's gradient is 1/K - c/B, and m = -1/B, o = 1/K fit it exactly."""
    truth = counted(torch.tensor(labels))
    layer = layer_of(1 / CLASSES - truth.double() / len(labels), len(labels))
    assert torch.equal(llg(passes=passes).counts(layer, gen()), truth)


def test_row_sums_of_an_untrained_layer_in_closed_form() -> None:
    """c = (4, 2, 2, 0), K = 4, inputs that add up to 3: r = 3 (1/4 - c/8) = (-.75, 0, 0, .75).

    m = -.75 / 8 * 5/4 = -.117: after class 0 once, the rest is (-.633, 0, 0, .75), and six more of class 0 are needed
    to lift it over 0, where there are three: the published impact is too small, the measured one, -3/8, is right.
    """
    truth = torch.tensor([4, 2, 2, 0])
    layer = layer_of(1 / 4 - truth.double() / 8, 8, sum_of_input=3.0)
    published = llg(passes=0, use_bias=False).counts(layer, gen())
    assert published.tolist() == [7, 1, 0, 0]
    assert llg(passes=200, use_bias=False).counts(layer, gen()).tolist() == truth.tolist()


def test_the_class_that_is_counted_is_the_class_that_pays() -> None:
    """The planted bug: code in use takes the impact off the class that a stale index names, and counts one class on."""

    def stale(gradient: Tensor, rows: int) -> Tensor:
        found, rest, impact = torch.zeros_like(gradient), gradient.clone(), -1 / rows
        for index in range(len(rest)):
            if rest[index] < 0:
                found[index] += 1
                rest[index] -= impact
        while found.sum() < rows:
            found[rest.argmin()] += 1
            rest[index] -= impact
        return found

    truth = torch.tensor([5, 0, 3, 2, 0, 0, 0, 0, 0, 0])
    gradient = 1 / CLASSES - truth.double() / 10
    assert stale(gradient, 10).tolist() != truth.tolist()
    assert llg().counts(layer_of(gradient, 10), gen()).tolist() == truth.tolist()


def test_a_negative_class_is_always_in_the_batch() -> None:
    """However confident the layer, wherever its inputs are not negative."""
    steps = batches(20, 6)
    view = update_view(network(1, [nn.Linear(WIDTH, CLASSES)]), steps, CLASSES, optimizer={"name": "sgd", "lr": 5.0})
    for layer, own in zip(last_layers(view), steps, strict=True):
        truth = counted(labels_of([own]))
        noise = 1e-6 * layer.row_sums.abs().max()
        assert bool((truth[layer.row_sums < -noise] > 0).all())
        found = llg().counts(layer, gen())
        assert bool((found[layer.bias_grad < 0] > 0).all())  # type: ignore[operator]  # this layer has a bias


@pytest.mark.parametrize("rows", [8, 32])
@pytest.mark.parametrize("use_bias", [True, False])
def test_measured_impact_and_offset_beat_the_published_guess(rows: int, use_bias: bool) -> None:
    """A layer that leans towards some classes: what it predicts has to come off. Measured: .96 and more, .66 to .83."""
    steps, how = batches(12, rows), {"tail": tail(lean=2.0), "optimizer": {"name": "sgd", "lr": 1e-3}}
    plus = overlap(llg(use_bias=use_bias), steps, **how)
    plain = overlap(llg(passes=0, use_bias=use_bias), steps, **how)
    assert plus > 0.93
    assert plus > plain + 0.08


def test_momentum_and_weight_decay_cost_nothing() -> None:
    steps = batches(12, 16)
    plain = overlap(llg(), steps, optimizer={"name": "sgd", "lr": 1e-3})
    carried = overlap(llg(), steps, optimizer={"name": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1})
    assert plain > 0.93
    assert carried > plain - 0.02


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_several_local_steps_are_linearised_and_that_is_said(momentum: float) -> None:
    """Four steps of eight rows between two averagings, slow enough to be nearly one step of 32."""
    steps = steps_of(40, 8, WIDTH, CLASSES)
    averagings = [steps[i : i + 4] for i in range(0, 40, 4)]
    optimizer = {"name": "sgd", "lr": 1e-4, "momentum": momentum}
    view = update_view(tail(), averagings, CLASSES, optimizer=optimizer)
    layers = last_layers(view)
    assert not any(layer.exact for layer in layers)
    (moved,) = [layer.bias_grad for layer in layers[:1]]
    assert moved is not None
    weights = torch.tensor([sum(momentum**j for j in range(4 - i)) for i in range(4)])
    weights /= weights.sum()  # by momentum, a step's gradient moves the layer again at each later step
    first = tail()[0]
    by_hand = sum(
        w * (torch.softmax(first(x), 1) - nn.functional.one_hot(y, CLASSES)).mean(0)
        for w, (x, y) in zip(weights, averagings[0], strict=True)
    )
    torch.testing.assert_close(moved.float(), by_hand, rtol=0, atol=5e-3)  # the layer moves a little on the way
    if momentum == 0:
        assert overlap(llg(), averagings, optimizer=optimizer) > 0.9


def test_scores_are_shares_and_no_row_is_given_a_label() -> None:
    steps = batches(3, 4)
    view = update_view(tail(), steps, CLASSES)
    guess = llg().run(view, gen())
    assert guess.labels is None
    assert guess.scores is not None
    assert torch.allclose(guess.scores.sum(1), torch.ones(12, dtype=torch.float64))
    for start, layer in zip((0, 4, 8), last_layers(view), strict=True):
        rows = guess.scores[start : start + 4]
        assert torch.equal(rows, rows[:1].expand(4, -1))
        assert torch.equal((rows[0] * 4).round().long(), llg().counts(layer, gen()))
    single = batches(5, 1)
    alone = llg().run(update_view(tail(), single, CLASSES), gen())
    assert alone.labels is not None
    assert torch.equal(alone.labels, labels_of(single))


def test_a_row_in_two_updates_gets_the_mean_of_both() -> None:
    view = update_view(tail(), batches(2, 4), CLASSES)
    first, second = (llg().counts(layer, gen()) / 4 for layer in last_layers(view))
    view.updates.sent[1].ids.copy_(view.updates.sent[0].ids)
    view.ids = view.ids[:4]
    scores = llg(passes=10).run(view, gen()).scores
    assert scores is not None
    torch.testing.assert_close(scores[0], ((first + second) / 2).double())


def test_optimizers_that_hide_sizes_are_refused_by_name() -> None:
    for name in ("adam", "adamw", "rmsprop"):
        view = update_view(tail(), batches(1, 4), CLASSES, optimizer={"name": name, "lr": 0.01})
        with pytest.raises(NotSupported, match=f"steps of {name} do not show"):
            llg().run(view, gen())


def test_passes_are_counted_from_zero() -> None:
    with pytest.raises(BadSetting, match="passes must be at least 0; got -1"):
        llg(passes=-1)


@pytest.mark.parametrize("every", [1, 2, "epoch"])
def test_batches_of_real_training(every: Any) -> None:
    """Splitfed with the tail at the clients: nearly all labels of the first epoch, where each step is shown."""
    data = toys.data(2, count=60)
    how = Training(epochs=1, batch_size=6, average_every=every, optimizer={"name": "sgd", "lr": 0.02, "momentum": 0.9})
    session = train(toys.lenet(), data, mode=Mode.SPLITFED, cut=("conv2", "fc1"), training=how)
    attack = llg()
    view = session.view(attack)
    guess = attack.run(view, gen())
    assert sorted(guess.ids.tolist()) == sorted(data.train.ids.tolist())
    assert guess.settings["exact"] == float(every == 1)
    right = blind = 0
    for layer in last_layers(view):
        truth = counted(session.truth(layer.ids).labels, 3)
        right += int(torch.minimum(attack.counts(layer, gen()), truth).sum())
        blind += int(torch.minimum((session.data.classes_prior * len(layer.ids)).round().long(), truth).sum())
    assert right / 60 >= {1: 0.95, 2: 0.85, "epoch": 0.8}[every]
    if every == 1:
        assert right > blind + 5
