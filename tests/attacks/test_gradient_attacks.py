# SPDX-License-Identifier: Apache-2.0
"""Labels from gradients, in cases worked out by hand and against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splitguard.api import ATTACKS, Guess, Party
from splitguard.errors import BadSetting, MissingKnowledge
from splitguard.metrics import auc
from tests.attacks.views import gen, label_view


def run(name: str, gradients: Tensor, labels: Tensor, known: list[int], classes: int, **settings: int) -> Guess:
    return ATTACKS.build(name, **settings).run(label_view(gradients, labels, known, classes), gen())


def linear_tail(rows: int, classes: int, features: int, *, seed: int = 0, scale: float = 0.1) -> tuple[Tensor, Tensor]:
    """Per-sample gradients (rows, features) at the input of ``softmax(W z)`` under cross entropy, and the labels."""
    draws = gen(seed)
    labels = torch.arange(rows) % classes
    weights = torch.randn(classes, features, generator=draws)
    z = (scale * torch.randn(rows, features, generator=draws)).requires_grad_()
    loss = F.cross_entropy(z @ weights.T, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, z)
    by_hand = (torch.softmax(z @ weights.T, 1) - F.one_hot(labels, classes)) @ weights
    assert torch.allclose(gradient, by_hand, atol=1e-5)  # W^T (p - y)
    return gradient, labels


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_directions_behind_a_linear_tail_give_every_label(classes: int) -> None:
    gradients, labels = linear_tail(60, classes, 32)
    known = list(range(classes))
    guess = run("gradient-cosine", gradients, labels, known, classes)
    assert guess.labels is not None
    assert torch.equal(guess.labels, labels[classes:])


def test_scores_without_rounds_are_cosines_to_the_known_samples() -> None:
    gradients, labels = linear_tail(12, 3, 5, scale=3.0)
    guess = run("gradient-cosine", gradients, labels, [0, 1, 2], 3, rounds=0)
    expected = F.cosine_similarity(gradients[3:, None].double(), gradients[None, :3].double(), dim=2)
    assert guess.scores is not None
    assert torch.allclose(guess.scores, expected)


def test_rounds_move_a_bad_anchor_to_its_class() -> None:
    """Two clusters at right angles; the known sample of class 0 lies towards class 1 and misleads on its own."""
    angles = torch.tensor([40.0, 90.0, -10.0, -5.0, 0.0, 5.0, 10.0, 62.0, 80.0, 85.0, 90.0, 95.0, 100.0])
    gradients = torch.stack([torch.cos(angles * torch.pi / 180), torch.sin(angles * torch.pi / 180)], 1)
    labels = torch.tensor([0, 1, *[0] * 5, *[1] * 6])
    first = run("gradient-cosine", gradients, labels, [0, 1], 2, rounds=0).labels
    last = run("gradient-cosine", gradients, labels, [0, 1], 2, rounds=10).labels
    assert first is not None
    assert last is not None
    assert angles[2:][first != labels[2:]].tolist() == [62.0]
    assert torch.equal(last, labels[2:])


def test_a_class_without_a_known_sample_is_what_points_away() -> None:
    gradients = torch.tensor([[1.0, 0.0], [2.0, 0.1], [-1.0, 0.1], [-3.0, 0.0]])
    guess = run("gradient-cosine", gradients, torch.tensor([1, 1, 0, 0]), [0], 2)
    assert guess.labels is not None
    assert guess.labels.tolist() == [1, 0, 0]
    assert guess.scores is not None
    assert auc(guess.scores[:, 1] - guess.scores[:, 0], torch.tensor([1, 0, 0])) == 1


def test_lengths_give_the_nearest_class_on_a_logarithmic_scale() -> None:
    lengths = torch.tensor([1.0, 10.0, 100.0, 3.0, 3.3, 30.0, 33.0, 0.01, 1e6])
    directions = F.normalize(torch.randn(9, 4, generator=gen()), dim=1)
    labels = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 2])  # the borders are at sqrt(10) and sqrt(1000)
    guess = run("gradient-norm", lengths[:, None] * directions, labels, [0, 1, 2], 3)
    assert guess.labels is not None
    assert torch.equal(guess.labels, labels[3:])


def test_two_classes_are_ranked_by_length_with_the_sign_of_the_known_samples() -> None:
    """The AUC is that of the length itself, as in the paper, whichever class has the longer gradients."""
    draws = gen()
    labels = torch.tensor([0, 1] * 100)
    for long in (0, 1):
        lengths = torch.exp(torch.randn(200, generator=draws) + 2.0 * (labels == long))
        lengths[0], lengths[1] = (2.0, 1.0) if long == 0 else (1.0, 2.0)
        directions = F.normalize(torch.randn(200, 4, generator=draws), dim=1)
        guess = run("gradient-norm", lengths[:, None] * directions, labels, [0, 1], 2)
        assert guess.scores is not None
        ours = auc(guess.scores[:, 1] - guess.scores[:, 0], labels[2:])
        reference = auc(lengths[2:] if long == 1 else -lengths[2:], labels[2:])
        assert ours == pytest.approx(reference)
        assert ours is not None
        assert ours > 0.8
        nearest = (lengths[2:].log() > lengths[:2].log().mean()) == (long == 1)
        assert torch.equal(guess.labels, nearest.long())  # type: ignore[arg-type]  # labels are there


def test_a_gradient_of_length_zero_and_a_class_without_samples_stay_finite() -> None:
    gradients = torch.tensor([[1.0], [5.0], [0.0], [4.0]])
    for name in ("gradient-norm", "gradient-cosine"):
        guess = run(name, gradients, torch.tensor([0, 1, 0, 1]), [0, 1], 3)
        assert guess.scores is not None
        assert bool(torch.isfinite(guess.scores).all())
        assert guess.labels is not None
        assert int(guess.labels.max()) < 2


def test_several_known_samples_of_a_class_are_averaged() -> None:
    lengths = torch.tensor([1.0, 100.0, 1000.0, 11.0])  # the mean log of class 0 is 10
    guess = run("gradient-norm", lengths[:, None], torch.tensor([0, 0, 1, 0]), [0, 1, 2], 3)
    assert guess.scores is not None
    assert float(guess.scores[0, 0]) == pytest.approx(-abs(torch.log(torch.tensor(1.1)).item()), abs=1e-6)


@pytest.mark.parametrize("name", ["gradient-norm", "gradient-cosine"])
@pytest.mark.parametrize("party", [Party.SERVER, Party.CLIENT])
def test_each_party_reads_the_gradient_it_is_sent(name: str, party: Party) -> None:
    gradients, labels = linear_tail(20, 2, 8)
    view = label_view(gradients, labels, [0, 1], 2, party=party)
    guess = ATTACKS.build(name).run(view, gen())
    assert torch.equal(guess.ids, torch.arange(2, 20))


def test_without_any_known_label_there_is_no_anchor() -> None:
    gradients, labels = linear_tail(6, 2, 3)
    with pytest.raises(MissingKnowledge, match="a label attack needs one a class"):
        run("gradient-cosine", gradients, labels, [], 2)


def test_rounds_are_counted_from_zero() -> None:
    with pytest.raises(BadSetting, match="rounds must be at least 0; got -1"):
        ATTACKS.build("gradient-cosine", rounds=-1)
