# SPDX-License-Identifier: Apache-2.0
"""Labels from singular directions, in views whose truth is known, and the clusters that this takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splitguard.api import ATTACKS, Known, Labels, Mode, Party, View
from splitguard.building.clusters import cluster_scores, k_means, named, top_directions
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge
from splitguard.metrics import accuracy
from tests.attacks.views import gen, label_view
from tests.engine import toys


def blobs(
    classes: int, each: int = 30, width: int = 40, *, spread: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gradients around one random direction a class, of lengths over three decades, and the labels."""
    draws = gen(seed)
    labels = torch.arange(classes * each) % classes
    means = F.normalize(torch.randn(classes, width, generator=draws), dim=1)
    noise = torch.randn(len(labels), width, generator=draws) / width**0.5
    lengths = 10 ** (3 * torch.rand(len(labels), 1, generator=draws))
    return lengths * (means[labels] + spread * noise), labels


def guess(view: View, **settings: object) -> Tensor:
    found = ATTACKS.build("gradient-spectral", **settings).run(view, gen()).labels
    assert found is not None
    return found


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("party", [Party.SERVER, Party.CLIENT])
def test_clusters_of_directions_give_every_label(classes: int, party: Party) -> None:
    gradients, labels = blobs(classes)
    view = label_view(gradients, labels, list(range(classes)), classes, party=party)
    assert torch.equal(guess(view), labels[classes:])


def test_two_classes_are_cut_along_the_top_singular_vector() -> None:
    """The reference is the paper's: the sign of the centred rows' coordinate along NumPy's first singular vector."""
    gradients, labels = blobs(2, spread=0.1, seed=3)
    rows = F.normalize(gradients.double(), dim=1).numpy()
    first = np.linalg.svd(rows - rows.mean(0))[2][0]
    side = torch.from_numpy((rows - rows.mean(0)) @ first > 0).long()
    side = side if side[0] == labels[0] else 1 - side
    assert torch.equal(guess(label_view(gradients, labels, [0, 1], 2)), side[2:])


def test_labels_are_named_by_the_known_samples_and_by_nothing_else() -> None:
    """Whoever names clusters by the truth returns the truth; here other known labels rename the same clusters."""
    gradients, labels = blobs(4)
    honest = label_view(gradients, labels, [0, 1, 2, 3], 4)
    moved = torch.tensor([2, 0, 3, 1])
    misled = replace(honest, _known=Known(honest.known.ids, moved[honest.known.labels]))
    assert torch.equal(guess(misled), moved[guess(honest)])
    assert accuracy(guess(misled), labels[4:]) == 0


def test_an_odd_known_sample_names_a_cluster_and_does_not_shape_it() -> None:
    """Class 0's known sample lies nearer to class 1, whose own is nearer still: the nearest known sample misleads."""
    gradients, labels = blobs(3, spread=0.1)
    gradients = F.normalize(gradients, dim=1)
    gradients[0] = 0.45 * gradients[3] + 0.55 * gradients[4]
    view = label_view(gradients, labels, [0, 1, 2], 3)
    assert torch.equal(guess(view), labels[3:])


def test_without_unit_rows_lengths_decide() -> None:
    gradients, labels = blobs(3)
    view = label_view(gradients, labels, [0, 1, 2], 3)
    assert accuracy(guess(view, unit=False), labels[3:]) < 0.8


def test_a_class_without_a_known_sample_takes_the_cluster_left_over() -> None:
    gradients, labels = blobs(3)
    assert torch.equal(
        guess(label_view(gradients, labels, [0, 2], 3)), labels[~torch.isin(torch.arange(90), torch.tensor([0, 2]))]
    )


def test_top_directions_are_those_of_a_full_decomposition() -> None:
    rows = torch.randn(60, 30, generator=gen(), dtype=torch.float64) * torch.logspace(0, -3, 30)
    ours = top_directions(rows, 4, gen(1))
    full = torch.linalg.svd(rows, full_matrices=False).Vh[:4].T
    assert torch.allclose(ours.T @ ours, torch.eye(4, dtype=torch.float64), atol=1e-10)
    assert torch.allclose((ours.T @ full).abs(), torch.eye(4, dtype=torch.float64), atol=1e-6)
    assert top_directions(rows[:3], 9, gen(1)).shape == (30, 3)


def test_clusters_are_matched_as_a_whole() -> None:
    """Both known samples lie nearest to cluster 0; the least sum gives each a cluster of its own."""
    distances = torch.tensor([[1.0, 2.0, 9.0], [1.5, 9.0, 9.0]], dtype=torch.float64)
    assert named(distances, torch.tensor([0, 1]), 3).tolist() == [1, 0, 2]
    several = torch.tensor([[0.0, 4.0], [6.0, 0.0], [0.0, 4.0], [9.0, 9.0]], dtype=torch.float64)
    assert named(several, torch.tensor([1, 1, 1, 0]), 2).tolist() == [1, 0]  # the mean over class 1's samples counts


def test_scores_are_minus_squared_distances_to_the_named_centres() -> None:
    centres = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    known, victims = torch.tensor([[9.0], [1.0]]).double(), torch.tensor([[3.0]]).double()
    scores = cluster_scores(victims, known, torch.tensor([0, 1]), 2, centres)
    assert torch.allclose(scores, torch.tensor([[-49.0, -9.0]]).double())


def test_k_means_wants_as_many_rows_as_centres_and_takes_equal_rows() -> None:
    with pytest.raises(BadSetting, match="3 clusters need at least 3 rows; got 2"):
        k_means(torch.zeros(2, 1).double(), 3, gen())
    assert torch.equal(k_means(torch.zeros(5, 2).double(), 3, gen()), torch.zeros(3, 2).double())


def test_what_it_refuses() -> None:
    with pytest.raises(BadSetting, match="starts must be at least 1; got 0"):
        ATTACKS.build("gradient-spectral", starts=0)
    gradients, labels = blobs(2)
    with pytest.raises(MissingKnowledge, match="a label attack needs one a class"):
        guess(label_view(gradients, labels, [], 2))


@pytest.mark.parametrize("of", ["gradients", "activations"])
@pytest.mark.parametrize("two_party", [False, True])
def test_in_a_session(of: str, two_party: bool) -> None:
    """Three classes of bands, for both parties that are not told the labels; blind is a third."""
    how = {"labels": Labels.SERVER, "cut": "conv2"} if two_party else {"mode": Mode.U_SHAPED, "cut": ("conv2", "fc1")}
    session = train(
        toys.lenet(dropout=0.0),
        toys.data(1, count=90),
        training=Training(epochs=6, batch_size=10),
        **how,
    )
    attack = ATTACKS.build("gradient-spectral", of=of)
    view = session.view(attack)
    found = attack.run(view, gen()).labels
    assert found is not None
    assert accuracy(found, session.truth(view.ids).labels) > (0.9 if of == "gradients" else 0.55)
