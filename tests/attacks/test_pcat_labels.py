# SPDX-License-Identifier: Apache-2.0
"""Labels that a pseudo-tail reads off a row and its neighbours among the victims' features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import Labels, View
from splitguard.attacks.pcat import PCATLabels
from splitguard.building.kept_features import KeptFeatures, nearest
from splitguard.errors import BadSetting
from tests.attacks.streams import exchanges, stream_view, watch
from tests.attacks.views import gen, network, rows_of, smooth

HEAD = network(0, (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()))
SMALL: dict[str, Any] = {"width": 4, "tail_width": 8, "late": 0.0, "finish": 2, "lr": 0.05}
ROWS = 24


def view_of() -> View:
    aux = replace(rows_of(smooth(40, seed=50)), labels=torch.arange(40) % 2)
    body = network(1, (nn.Flatten(), nn.Linear(256, 6)))
    return replace(stream_view(smooth(6), HEAD, aux, body=body, features=(6,)), labels=Labels.CLIENT)


def watched(view: View, neighbours: int) -> PCATLabels:
    return watch(PCATLabels(**SMALL, neighbours=neighbours), view, exchanges(smooth(ROWS), HEAD, size=4))


def scores_of(attack: PCATLabels, view: View) -> Tensor:
    scores = attack.run(view, gen()).scores
    assert scores is not None
    return scores


@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_a_score_is_the_mean_of_what_the_tail_says_of_a_row_and_those_next_to_it(neighbours: int) -> None:
    view = view_of()
    attack = watched(view, neighbours)
    [nets] = attack.finished(view, gen())
    features = view.body()(HEAD(smooth(ROWS))).detach()
    told = nets["tail"](features).softmax(1)
    count = min(neighbours, ROWS // (2 * 2))  # at most half a class
    wanted = []
    for row in range(6):
        apart = [float((features[row] - other).square().sum()) for other in features]
        wanted.append(told[sorted(range(ROWS), key=apart.__getitem__)[:count]].mean(0).log())
    torch.testing.assert_close(scores_of(attack, view), torch.stack(wanted))


def test_one_neighbour_is_the_row_itself_to_the_bit() -> None:
    view = view_of()
    attack = watched(view, 1)
    [nets] = attack.finished(view, gen())
    features = torch.stack([attack._features.rows[row] for row in view.ids.tolist()])
    assert torch.equal(scores_of(attack, view), nets["tail"](features).log_softmax(1))


def test_neighbours_put_right_what_a_tail_says_wrongly_here_and_there() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.tensor([[0.0, 0.0], [6.0, 0.0]])[labels] + torch.randn(200, 2, generator=generator)
    wrong = torch.rand(200, generator=generator) < 0.2
    said = torch.where(wrong, 1 - labels, labels)
    near = nearest(features, 200, 30)
    assert torch.equal(near[:, 0], torch.arange(200))
    assert wrong.any()
    assert torch.equal((said[near].double().mean(1) > 0.5).long(), labels)


def test_the_latest_features_of_a_row_count_and_rows_are_taken_up_while_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("splitguard.building.kept_features.MEMORY", 2 * 4 * 3)  # two rows of three float32
    kept = KeptFeatures()
    kept.add(torch.tensor([5, 7]), torch.zeros(2, 3))
    kept.add(torch.tensor([9, 7]), torch.ones(2, 3))
    assert list(kept.rows) == [5, 7]
    own = torch.full((2, 3), 4.0)
    assert torch.equal(kept.of(torch.tensor([7, 9]), own)[:, 0], torch.tensor([1.0, 4.0, 0.0]))


def test_no_neighbour_at_all_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"pcat-labels: neighbours must be at least 1; got 0"):
        PCATLabels(neighbours=0)
