# SPDX-License-Identifier: Apache-2.0
"""Labels under which a clone of the tail returns what was returned: exact cases, autograd, and what cannot be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.api import ATTACKS, Guess, Mode, Sees, View
from splitguard.attacks.unsplit_labels import _Clone, _gradients, _Rows
from splitguard.building.anchors import Anchored
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge
from tests.attacks.views import gen, label_view, network
from tests.engine import toys

ROWS, CLASSES, WIDTH = 80, 5, 12
LABELS = torch.arange(ROWS) % CLASSES


def returned(tail: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Per-sample gradients at the features, by autograd."""
    features = features.clone().requires_grad_(True)
    (out,) = torch.autograd.grad(F.cross_entropy(tail(features), labels, reduction="sum"), features)
    return out


def linear(seed: int = 0, classes: int = CLASSES) -> nn.Linear:
    tail = nn.Linear(WIDTH, classes).double().requires_grad_(False)
    tail.weight.copy_(torch.randn(classes, WIDTH, generator=gen(seed)).double())
    tail.bias.copy_(torch.randn(classes, generator=gen(seed + 1)).double())
    return tail


def deep() -> nn.Module:
    """Two layers, of which the published attack recovers a tenth of the labels without their first weights."""
    return network(0, (nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))).double()


def features(scale: float, seed: int = 3) -> Tensor:
    return scale * torch.randn(ROWS, WIDTH, generator=gen(seed)).double()


def view_of(sent: Tensor, gradients: Tensor, labels: Tensor = LABELS, *, tail: nn.Module | None = None) -> View:
    """The first row of each class is known; the tail is granted only where it is given."""
    view = label_view(gradients, labels, list(range(CLASSES)), CLASSES)
    context = view._context
    assert context is not None
    models = replace(view.models, tail=lambda at: tail or nn.Identity())
    granted = view.granted if tail else view.granted & ~Sees.TAIL
    return replace(view, _context=replace(context, features=sent), models=models, granted=granted)


def run(name: str, view: View, **settings: int) -> Guess:
    guess = ATTACKS.build(name, **settings).run(view, gen())
    assert guess.labels is not None
    assert guess.scores is not None
    assert torch.equal(guess.scores.argmax(1), guess.labels)
    return guess


def right(guess: Guess, labels: Tensor = LABELS) -> float:
    assert guess.labels is not None
    return float((guess.labels == labels[CLASSES:]).double().mean())


def test_the_clones_distances_are_those_of_autograd() -> None:
    """With the true weights: 0 at the true label, and elsewhere the distance of two gradients."""
    tail, sent = linear(), features(1.0)
    gradients = returned(tail, sent, LABELS)
    view = view_of(sent, gradients)
    rows = _Rows.of(view, Anchored.of(view), 1)
    clone = _Clone(rows, Anchored.of(view), 1)
    clone.weight[0], clone.bias[0] = tail.weight, tail.bias
    each = torch.stack([returned(tail, sent, torch.full_like(LABELS, k)) for k in range(CLASSES)], 1)
    expected = (each - gradients[:, None]).square().sum(2)
    assert torch.allclose(clone.distances(rows), expected, atol=1e-12)
    assert float(clone.distances(rows).gather(1, LABELS[:, None]).abs().max()) < 1e-12
    assert torch.allclose(_gradients(tail, view.context, CLASSES), each, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_behind_a_linear_tail_every_label_is_found(scale: float) -> None:
    tail, sent = linear(), features(scale)
    view = view_of(sent, returned(tail, sent, LABELS))
    assert right(run("unsplit-labels", view)) > 0.98


def test_a_fitted_clone_beats_the_known_gradients_alone() -> None:
    tail, sent = linear(), features(2.0)
    view = view_of(sent, returned(tail, sent, LABELS))
    fitted, alone = (right(run("unsplit-labels", view, rounds=r)) for r in (10, 0))
    assert fitted > alone + 0.1


def test_a_tail_that_moves_is_followed() -> None:
    """W(t) = A + t B, B as large as A; rows of step s lie at t from -1 to 1."""
    one, other, sent = linear(0), linear(7), features(0.5)
    steps = torch.arange(ROWS) // 4
    t = (2 * steps.double() / steps.max() - 1)[:, None]
    logits = sent @ one.weight.T + one.bias + t * (sent @ other.weight.T + other.bias)
    chances = torch.softmax(logits, 1) - F.one_hot(LABELS, CLASSES)
    gradients = chances @ one.weight + t * (chances @ other.weight)
    view = view_of(sent, gradients)
    moves, stands = (run("unsplit-labels", view, drift=d) for d in (1, 0))
    assert right(moves) == 1
    assert right(stands) < 0.95
    assert moves.scores is not None
    assert stands.scores is not None
    # Followed, each gradient is explained to the last digits; by a tail that stands still, it is not.
    assert float(moves.scores.max(1).values.min()) > -1e-4
    assert float(stands.scores.max(1).values.mean()) < -0.1


def test_names_come_from_the_known_rows_alone() -> None:
    """Classes renamed in what is known are renamed in the guess; nothing else says which is which."""
    tail, sent = linear(), features(0.5)
    gradients = returned(tail, sent, LABELS)
    renamed = (LABELS + 2) % CLASSES
    one, other = (run("unsplit-labels", view_of(sent, gradients, named)).labels for named in (LABELS, renamed))
    assert one is not None
    assert other is not None
    assert torch.equal((one + 2) % CLASSES, other)


def test_a_class_without_a_known_row_is_guessed_for_nobody() -> None:
    tail, sent = linear(), features(0.5)
    view = view_of(sent, returned(tail, sent, LABELS))
    known = view.known
    fewer = replace(view, _known=replace(known, ids=known.ids[:-1], labels=known.labels[:-1]))
    guess = run("unsplit-labels", fewer)
    assert guess.labels is not None
    assert int(guess.labels.max()) < CLASSES - 1
    assert guess.scores is not None
    assert bool(torch.isfinite(guess.scores).all())


@pytest.mark.parametrize("make", [linear, deep])
def test_with_the_tail_every_label_is_read_off_and_no_row_is_known(make: Callable[[], nn.Module]) -> None:
    tail = make()
    sent = features(1.0)
    view = view_of(sent, returned(tail, sent, LABELS), tail=tail)
    guess = run("unsplit-labels-tail", replace(view, granted=view.granted & ~Sees.KNOWN))
    assert right(guess) == 1
    assert guess.scores is not None
    assert torch.allclose(guess.scores.max(1).values, torch.ones(len(view.ids)).double())


def test_a_tail_that_has_learned_since_still_tells() -> None:
    tail, sent = linear(), features(0.3)
    view = view_of(sent, returned(linear(), sent, LABELS), tail=tail)
    tail.weight *= 3  # surer of what it said before
    assert right(run("unsplit-labels-tail", view)) > 0.95


def test_without_the_tail_or_the_known_rows_it_is_refused_by_name() -> None:
    sent = features(1.0)
    view = view_of(sent, returned(linear(), sent, LABELS))
    with pytest.raises(MissingKnowledge, match="tail"):
        run("unsplit-labels-tail", view)
    with pytest.raises(MissingKnowledge, match="known"):
        run("unsplit-labels", replace(view, granted=view.granted & ~Sees.KNOWN))


@pytest.mark.parametrize("name", ["unsplit-labels", "unsplit-labels-tail"])
def test_it_reads_labels_in_the_engine(name: str) -> None:
    quick = Training(epochs=2, batch_size=8)
    session = train(toys.lenet(dropout=0.0), toys.data(1), mode=Mode.U_SHAPED, cut="pool1..relu3", training=quick)
    view = session.view(ATTACKS.build(name))
    assert view.context.labels is None
    labels = session.truth(view.ids).labels
    guess = run(name, view)
    assert guess.labels is not None
    assert float((guess.labels == labels).double().mean()) > 0.8  # chance is a third


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rounds": -1}, "rounds must be at least 0; got -1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"drift": -1}, "drift must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        ATTACKS.build("unsplit-labels", **settings)
