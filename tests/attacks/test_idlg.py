# SPDX-License-Identifier: Apache-2.0
"""The label of a batch of one is the sign in the last layer's update, for every optimizer of which that is claimed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Guess, Labels, Mode, NotSupported, Profile, View
from splitguard.building.updates import last_layers, logit_layer
from splitguard.engine.train import train
from splitguard.engine.training import Training
from tests.attacks.update_views import Step, labels_of, steps_of, update_view
from tests.attacks.views import gen, network
from tests.engine import toys

WIDTH, CLASSES = 12, 5


def tail(*, bias: bool = True) -> nn.Sequential:
    return network(3, [nn.Linear(WIDTH, CLASSES, bias=bias)])


def alone(count: int = 30, *, positive: bool = True) -> list[list[Step]]:
    return [[step] for step in steps_of(count, 1, WIDTH, CLASSES, positive=positive)]


def guessed(view: View, **settings: Any) -> Guess:
    return ATTACKS.build("idlg", **settings).run(view, gen())


def right(guess: Guess, truth: Tensor) -> float:
    assert guess.labels is not None
    return float((guess.labels == truth).double().mean())


SGD: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.1},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.3},
]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("optimizer", SGD, ids=lambda o: "-".join(map(str, o)))
def test_every_label_behind_a_relu_whatever_sgd_carries_over(optimizer: dict[str, Any], use_bias: bool) -> None:
    steps = alone()
    view = update_view(tail(), steps, CLASSES, optimizer=optimizer)
    guess = guessed(view, use_bias=use_bias)
    assert right(guess, labels_of(steps)) == 1
    assert guess.settings["exact"] == 1


@pytest.mark.parametrize("optimizer", SGD, ids=lambda o: "-".join(map(str, o)))
def test_the_gradient_is_the_one_that_autograd_gives(optimizer: dict[str, Any]) -> None:
    """Undone, each of torch's own steps gives back the gradient at the layers before it."""
    steps = [[step] for step in steps_of(6, 4, WIDTH, CLASSES)]
    view = update_view(tail(), steps, CLASSES, optimizer=optimizer)
    for layer, update, ((features, labels),) in zip(last_layers(view), view.updates.sent, steps, strict=True):
        weight = update.before["tail.0.weight"].clone().requires_grad_()
        bias = update.before["tail.0.bias"].clone().requires_grad_()
        loss = nn.functional.cross_entropy(nn.functional.linear(features, weight, bias), labels)
        of_weight, of_bias = torch.autograd.grad(loss, (weight, bias))
        assert layer.bias_grad is not None
        # float32 weights near 1 are kept to 6e-8; over the learning rate .1 and undone with momentum, some 1e-6.
        torch.testing.assert_close(layer.weight_grad.float(), of_weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.bias_grad.float(), of_bias, rtol=0, atol=1e-5)


def test_momentum_that_is_not_undone_gives_wrong_labels() -> None:
    """The planted bug: the raw change, which carries nine tenths of the steps before, misleads."""
    steps = alone()
    view = update_view(tail(), steps, CLASSES, optimizer=SGD[1])
    raw = [(u.before["tail.0.bias"] - u.after["tail.0.bias"]).argmin() for u in view.updates.sent]
    assert float((torch.stack(raw) == labels_of(steps)).double().mean()) < 0.9


def test_a_record_that_begins_later_is_exact_from_its_second_update_on() -> None:
    steps = alone()
    view = update_view(tail(), steps, CLASSES, optimizer=SGD[1], epoch=2, skip=5)
    guess = guessed(view)
    assert guess.labels is not None
    assert torch.equal(guess.labels[1:], labels_of(steps, skip=5)[1:])
    assert [layer.exact for layer in last_layers(view)] == [False] + [True] * 24
    nesterov = update_view(tail(), steps, CLASSES, optimizer=SGD[3], epoch=2, skip=5)
    assert not any(layer.exact for layer in last_layers(nesterov))


def test_row_sums_need_inputs_of_one_sign_and_the_bias_does_not() -> None:
    steps = alone(positive=False)
    view = update_view(tail(), steps, CLASSES)
    assert right(guessed(view, use_bias=True), labels_of(steps)) == 1
    assert right(guessed(view, use_bias=False), labels_of(steps)) < 0.9
    bare = update_view(tail(bias=False), alone(), CLASSES)
    assert right(guessed(bare, use_bias=True), labels_of(alone())) == 1  # there is none: row sums


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_optimizers_that_keep_signs_only(name: str) -> None:
    """Adam's first step has the gradient's signs; later ones mix the earlier in. RMSprop's have them always."""
    steps = alone()
    view = update_view(tail(), steps, CLASSES, optimizer={"name": name, "lr": 0.01})
    guess = guessed(view)
    assert guess.labels is not None
    assert guess.labels[0] == labels_of(steps)[0]
    exact = [layer.exact for layer in last_layers(view)]
    assert exact == [True] + [name == "rmsprop"] * 29
    if name == "rmsprop":
        assert right(guess, labels_of(steps)) == 1
    assert not any(layer.scaled for layer in last_layers(view))


def test_the_layer_is_found_by_what_it_does() -> None:
    deep = nn.Sequential(
        OrderedDict(
            a=nn.Linear(WIDTH, CLASSES), relu=nn.ReLU(), out=nn.Linear(CLASSES, CLASSES), drop=nn.Dropout(0.5),
            same=nn.Identity(), unused=nn.Sequential(),
        )
    )  # fmt: skip
    view = update_view(deep, alone(1), CLASSES)
    assert logit_layer(view) == "out"
    for last in (nn.ReLU(), nn.LogSoftmax(1), nn.BatchNorm1d(CLASSES)):
        changed = nn.Sequential(nn.Linear(WIDTH, CLASSES), last)
        with pytest.raises(NotSupported, match=r"ends in no linear layer whose 5 outputs.*its linear layers: 0"):
            guessed(update_view(changed, [[step] for step in steps_of(1, 2, WIDTH, CLASSES)], CLASSES))


def test_several_rows_are_refused_by_name() -> None:
    view = update_view(tail(), [[step] for step in steps_of(2, 3, WIDTH, CLASSES)], CLASSES)
    with pytest.raises(NotSupported, match=r"made of 3 rows\. Use llg"):
        guessed(view)


def test_a_learning_rate_of_zero_tells_nothing() -> None:
    view = update_view(tail(), alone(1), CLASSES, optimizer={"name": "sgd", "lr": 0.0})
    with pytest.raises(NotSupported, match="learning rate of 0"):
        guessed(view)


def test_the_truth_is_out_of_reach() -> None:
    """An oracle that hands back the labels it was to find has nothing to read: the guess follows the updates alone."""
    steps = alone()
    view = update_view(tail(), steps, CLASSES)
    turned = [[(features, (labels + 1) % CLASSES)] for ((features, labels),) in steps]
    other = update_view(tail(), turned, CLASSES)
    one, two = guessed(view).labels, guessed(other).labels
    assert one is not None
    assert two is not None
    assert torch.equal(two, (one + 1) % CLASSES)


@pytest.mark.parametrize("optimizer", [SGD[0], SGD[1]], ids=["plain", "momentum"])
def test_every_label_of_every_client_in_real_training(optimizer: dict[str, Any]) -> None:
    """Splitfed with the tail at the clients, one row a step: all labels of the epoch, and a session without labels."""
    data = toys.data(2)
    how = Training(epochs=1, batch_size=1, average_every=1, optimizer=optimizer)
    session = train(toys.lenet(), data, mode=Mode.SPLITFED, cut=("conv2", "fc1"), training=how)
    attack = ATTACKS.build("idlg")
    view = session.view(attack, profile=Profile.BLACK_BOX)
    assert view._context is None or view._context.labels is None
    guess = attack.run(view, gen())
    assert sorted(guess.ids.tolist()) == sorted(data.train.ids.tolist())
    assert right(guess, session.truth(guess.ids).labels) == 1


def test_labels_that_a_server_is_sent_are_no_target() -> None:
    session = train(toys.lenet(), toys.data(2), mode=Mode.SPLITFED, cut="conv2", training=Training(epochs=1))
    assert session.labels is Labels.SENT
    with pytest.raises(NotSupported, match=r"the fed server\) is given the labels"):
        session.view(ATTACKS.build("idlg"))
