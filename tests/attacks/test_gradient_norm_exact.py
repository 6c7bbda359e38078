# SPDX-License-Identifier: Apache-2.0
"""The length of the gradient behind one logit and BCE, in closed form: |p - y| times the length of the logit's own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from splitguard.api import ATTACKS
from splitguard.data import load
from splitguard.engine.cut import split
from splitguard.engine.threat import Labels
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.metrics import auc
from splitguard.models import make_model
from splitguard.seeding import drawing
from tests.attacks.views import gen, label_view


def one_logit(features: int, seed: int) -> nn.Module:
    """(N, features) to logits (N,); smooth, so that no gradient vanishes."""
    with drawing(seed):
        return nn.Sequential(nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0)).double()


def trained(model: nn.Module, z: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.binary_cross_entropy_with_logits(model(z), y.double()))
        optimizer.step()


def returned(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """(N, features): what the label owner returns, per sample."""
    leaf = z.clone().requires_grad_()
    loss = F.binary_cross_entropy_with_logits(model(leaf), y.double(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def closed_form(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """(N,): |p - y| ||grad_z logit||, by a way of its own: the logit alone is differentiated, row by row."""
    own = vmap(grad(lambda row: model(row[None])[0]))(z)
    with torch.no_grad():
        out: Tensor = (model(z).sigmoid() - y.double()).abs() * own.norm(dim=1)
    return out


def check(model: nn.Module, z: Tensor, y: Tensor) -> float:
    """The scores are the log of the closed form to 1e-5 in the length, relative; returns their AUC."""
    known = [int(torch.nonzero(y == label)[0]) for label in (0, 1)]
    view = label_view(returned(model, z, y), y, known, 2)
    scores = ATTACKS.build("gradient-norm").run(view, gen()).scores
    assert scores is not None
    lengths = closed_form(model, z, y)
    zero, one = lengths[known].log()
    # The score is sign(a_1 - a_0) (log length - (a_0 + a_1) / 2) with the known samples' log lengths a.
    by_scores = ((one - zero).sign() * scores[:, 1] + (zero + one) / 2).exp()
    torch.testing.assert_close(by_scores, lengths[view.ids], rtol=1e-5, atol=0)
    found = auc(scores[:, 1], y[view.ids])
    reference = auc((one - zero).sign() * lengths[view.ids], y[view.ids])
    assert found is not None
    assert found == pytest.approx(reference)
    return found


@pytest.mark.parametrize("steps", [0, 30])
def test_scores_are_the_closed_form_for_one_logit_and_bce(steps: int) -> None:
    draws = gen()
    y = (torch.rand(300, generator=draws) < 0.1).long()
    z = torch.randn(300, 12, generator=draws, dtype=torch.float64) + y[:, None]
    model = one_logit(12, seed=1)
    trained(model, z, y, steps)
    leak = check(model, z, y)
    if steps:  # the rare class is predicted seldom, and so its gradients are long
        ones = int(y.sum())
        assert leak > 0.5 + 4 * (301 / (12 * ones * (300 - ones))) ** 0.5  # four standard errors above chance


def test_one_class_of_fashion_mnist_against_the_rest() -> None:
    """A tenth of the rows is positive, as published evidence is: the rare class leaks by length alone."""
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is not on this machine; Debian's package dataset-fashion-mnist brings it")
    rows = load("fashion-mnist", seed=0, train=600, test=10, aux=20, victims={"member": 4, "query": 2}).train
    z, y = rows.inputs.flatten(1).double() - 0.5, (rows.labels == 6).long()
    assert 0.05 < float(y.double().mean()) < 0.15
    model = one_logit(784, seed=2)
    trained(model, z, y, 10)
    assert check(model, z, y) > 0.8


class Difference(nn.Module):
    """The logit that two logits stand for: l_1 - l_0."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, z: Tensor) -> Tensor:
        scores: Tensor = self.body(z)
        return scores[:, 1] - scores[:, 0]


def test_two_logits_and_cross_entropy_are_one_logit_and_bce() -> None:
    """Loss and gradient are the same functions of the difference of the logits, to rounding in double precision."""
    draws = gen()
    pair = 8 * torch.randn(400, 2, generator=draws, dtype=torch.float64)
    y = torch.randint(2, (400,), generator=draws)
    leaf = pair.clone().requires_grad_()
    losses = F.cross_entropy(leaf, y, reduction="none")
    one = (pair[:, 1] - pair[:, 0]).requires_grad_()
    others = F.binary_cross_entropy_with_logits(one, y.double(), reduction="none")
    torch.testing.assert_close(losses, others, rtol=1e-12, atol=1e-13)
    (two_grads,) = torch.autograd.grad(losses.sum(), leaf)
    (one_grad,) = torch.autograd.grad(others.sum(), one)
    torch.testing.assert_close(two_grads, torch.stack([-one_grad, one_grad], 1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", [0, 1])
def test_in_a_session_the_length_is_that_of_one_logit_and_bce(seed: int) -> None:
    """One step on all rows at once, so that the weights behind every gradient are those before the session."""
    data = load("faces", seed=seed)
    module = make_model("lenet", input_shape=data.input_shape, classes=2, seed=seed)
    before = split(copy.deepcopy(module), at="conv2")
    training = Training(epochs=1, batch_size=len(data.train))
    session = train(module, data, cut="conv2", labels=Labels.SERVER, training=training, seed=seed)
    attack = ATTACKS.build("gradient-norm")
    view = session.view(attack)
    scores = attack.run(view, gen()).scores
    assert scores is not None
    logit = Difference(before.body).eval()
    lengths = {}
    for ids in (view.ids, view.known.ids):
        rows = session.truth(ids)
        sent = view.context.last(ids).smashed
        own = vmap(grad(lambda row: logit(row[None])[0]))(sent)
        with torch.no_grad():
            off = (logit(sent).sigmoid() - rows.labels.float()).abs()
        lengths[len(ids)] = off * own.flatten(1).norm(dim=1)
    zero, one = lengths[2].double().log()
    by_scores = ((one - zero).sign() * scores[:, 1] + (zero + one) / 2).exp()
    torch.testing.assert_close(by_scores, lengths[len(view.ids)].double(), rtol=1e-5, atol=0)
