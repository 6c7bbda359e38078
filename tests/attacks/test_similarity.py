# SPDX-License-Identifier: Apache-2.0
"""Labels from likeness, against distances written out by hand, by all three methods, and on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.api import ATTACKS, Guess, Known, Labels, Mode, Party, Rows, View
from splitguard.data import load
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting
from splitguard.metrics import accuracy
from splitguard.models import make_model
from tests.attacks.test_gradient_spectral import blobs
from tests.attacks.views import gen, label_view, network

METHODS = ["anchors", "k-means", "spreading"]


def run(view: View, name: str = "similarity", **settings: Any) -> Guess:
    return ATTACKS.build(name, **settings).run(view, gen())


def labels_of(guess: Guess) -> Tensor:
    assert guess.labels is not None
    return guess.labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 10])
def test_gradients_that_point_alike_get_one_label(method: str, classes: int) -> None:
    gradients, labels = blobs(classes)
    view = label_view(gradients, labels, list(range(classes)), classes)
    assert torch.equal(labels_of(run(view, method=method)), labels[classes:])


def test_anchors_are_the_nearest_known_sample_written_out_by_hand() -> None:
    """Two known samples of a class count each by itself, not by their mean."""
    gradients = torch.randn(40, 6, generator=gen())
    labels = torch.arange(40) % 4
    known = [0, 1, 2, 3, 4, 5]
    guess = run(label_view(gradients, labels, known, 4), method="anchors")
    for row, found in zip(gradients[6:], labels_of(guess), strict=True):
        cosines = [float(F.cosine_similarity(row, gradients[a], dim=0)) for a in known]
        assert int(found) == int(labels[known[max(range(6), key=cosines.__getitem__)]])


@pytest.mark.parametrize("method", METHODS)
def test_other_known_labels_rename_the_guess(method: str) -> None:
    gradients, labels = blobs(3)
    view = label_view(gradients, labels, [0, 1, 2], 3)
    renamed = replace(view, _known=Known(view.known.ids, (view.known.labels + 1) % 3))
    assert torch.equal(labels_of(run(renamed, method=method)), (labels_of(run(view, method=method)) + 1) % 3)


def test_labels_spread_along_a_chain_where_balls_fail() -> None:
    """Two half rings, one known sample at an end of each: its neighbours' neighbours are followed, not distance."""
    turn = torch.linspace(0, torch.pi, 60)
    one = torch.stack([turn.cos(), turn.sin(), torch.zeros(60)], 1)
    other = torch.stack([1 - turn.cos(), 0.5 - turn.sin(), torch.zeros(60)], 1)
    rows = F.normalize(torch.cat([one, other]) + torch.tensor([0.0, 0.0, 2.0]), dim=1)  # on a sphere: lengths go away
    labels = torch.arange(120) // 60
    view = label_view(rows, labels, [0, 60], 2)
    spread = accuracy(labels_of(run(view, method="spreading", neighbours=5, clamp=0.99)), labels[view.ids])
    nearest = accuracy(labels_of(run(view, method="anchors")), labels[view.ids])
    assert spread > 0.95
    assert nearest < 0.9


def test_a_row_that_no_label_reaches_takes_the_nearest_known_sample() -> None:
    near = F.normalize(torch.tensor([1.0, 0, 0]) + 0.01 * torch.randn(10, 3, generator=gen()), dim=1)
    far = F.normalize(torch.tensor([0, 1.0, 0]) + 0.01 * torch.randn(10, 3, generator=gen(1)), dim=1)
    lost = F.normalize(torch.tensor([0.2, 0.5, 1.0]) + 0.01 * torch.randn(10, 3, generator=gen(2)), dim=1)
    labels = torch.tensor([0] * 10 + [1] * 20)
    view = label_view(torch.cat([near, far, lost]), labels, [0, 10], 2)
    assert torch.equal(labels_of(run(view, method="spreading", neighbours=5)), labels[view.ids])


def test_smashed_data_are_compared_as_the_deployed_network_makes_them() -> None:
    """What was recorded is of no use; the client's own head on its own inputs tells the classes apart."""
    images = torch.rand(60, 1, 8, 8, generator=gen()) * 0.2
    labels = torch.arange(60) % 3
    for k in range(3):
        images[labels == k, :, 3 * k : 3 * k + 2] += 0.8
    view = label_view(torch.zeros(60, 1), labels, [0, 1, 2], 3, party=Party.CLIENT)
    head = network(0, [nn.Flatten(), nn.Linear(64, 20), nn.ReLU()])
    own = replace(
        view, models=replace(view.models, head=lambda at: head), _inputs=Rows(images, labels * 0 - 1, view.context.ids)
    )
    for method in METHODS:
        assert accuracy(labels_of(run(own, "similarity-smashed", method=method)), labels[3:]) > 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"starts": 0}, "starts must be at least 1; got 0"),
        ({"neighbours": 0}, "neighbours must be at least 1; got 0"),
        ({"clamp": 1.0}, r"clamp must lie in \(0, 1\); got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        ATTACKS.build("similarity-smashed", **settings)


@pytest.fixture(scope="module")
def fashion() -> dict[str, Session]:
    """300 rows of ten classes, two epochs, for both parties that are not told the labels."""
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is not on this machine; Debian's package dataset-fashion-mnist brings it")
    data = load("fashion-mnist", seed=0, train=300, test=50, aux=60, victims={"member": 8, "query": 4})
    how: dict[str, dict[str, Any]] = {
        "client": {"labels": Labels.SERVER, "cut": "fc1"},
        "server": {"mode": Mode.U_SHAPED, "cut": ("conv1", "fc2")},
    }
    return {
        party: train(
            make_model("lenet", input_shape=data.input_shape, classes=10, seed=0),
            data,
            training=Training(epochs=2, batch_size=30),
            **kind,
        )
        for party, kind in how.items()
    }


@pytest.mark.parametrize("party", ["client", "server"])
@pytest.mark.parametrize(
    ("name", "least"), [("similarity", 0.9), ("gradient-spectral", 0.9), ("similarity-smashed", 0.3)]
)
def test_ten_classes_of_fashion_mnist(fashion: dict[str, Session], party: str, name: str, least: float) -> None:
    """Blind is 0.1; four standard errors of 290 victims are 0.07."""
    attack = ATTACKS.build(name)
    view = fashion[party].view(attack)
    assert str(view.party) == party
    assert accuracy(labels_of(attack.run(view, gen())), fashion[party].truth(view.ids).labels) > least
