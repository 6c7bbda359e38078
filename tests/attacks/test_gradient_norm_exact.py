# SPDX-License-Identifier: Apache-2.0
"""The length of the gradient behind one logit and BCE, in closed form: |p - y| times the length of the logit's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from splitguard.api import ATTACKS
from splitguard.data import load
from splitguard.metrics import auc
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
