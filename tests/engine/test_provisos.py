# SPDX-License-Identifier: Apache-2.0
"""What a session's guarantees rest on: rows that layers mix, delta, evaluations, the seed, and public weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splitguard.defenses.codebook import Codebook
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.defense import Defense
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import NotSupported
from splitguard.privacy import Guarantee
from tests.engine import toys


class Centred(nn.Module):
    """Mixes the rows of a batch, in eval mode too."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows - rows.mean(0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), centred=Centred(), last=nn.Linear(64, 3)))


def session(defense: Defense, *, cut: str = "flat", checkpoint: Path | None = None, **training: Any) -> Session:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "head": "frozen", "release": "once", **training}
    return train(
        network(), toys.data(1), cut=cut, defense=defense, training=Training(**settings), checkpoint=checkpoint
    )


def stated(defense: Defense, **how: Any) -> Guarantee:
    [found] = session(defense, **how).guarantees
    return found


def test_a_frozen_head_that_mixes_rows_has_no_epsilon_of_the_whole_view() -> None:
    assert stated(Gaussian(epsilon=8.0)).epsilon == pytest.approx(8.0)
    mixed = stated(Gaussian(epsilon=8.0), cut="centred")
    assert mixed.epsilon is None
    assert mixed.epsilon_rows == pytest.approx(8.0)
    assert "centred.sub mixes the rows of a batch before the clip" in mixed.exclusions


def test_that_no_layer_mixes_rows_is_said_to_be_tried_only() -> None:
    told = "that no layer of the head mixes rows was tried, not proved"
    assert told in stated(Gaussian(epsilon=8.0)).exclusions
    for other in ({"cut": "centred"}, {"head": "trained", "release": "always"}):
        assert told not in stated(Gaussian(epsilon=8.0), **other).exclusions


def test_a_codebook_refuses_such_a_head() -> None:
    with pytest.raises(NotSupported, match="centred"):
        session(Codebook(words=4), cut="centred")


@pytest.mark.parametrize(("delta", "told"), [(1e-5, True), (1 / 46, False), (0.3, False)])
def test_a_delta_that_gives_rows_away_guarantees_nothing(delta: float, told: bool) -> None:
    found = stated(Gaussian(epsilon=8.0, delta=delta))
    assert (found.epsilon is not None) is told
    assert ("is not below one over the 46 training rows" in str(found)) is not told


def test_a_test_row_is_counted_in_each_evaluation_and_said_to_be() -> None:
    assert "evaluations send a test row" not in str(stated(Gaussian(epsilon=8.0)))
    often = stated(Gaussian(epsilon=8.0), epochs=3, evaluate="epoch")
    assert often.T == 1
    assert "evaluations send a test row 3 times" in str(often)


def test_the_seed_and_public_weights_are_named_where_a_guarantee_rests_on_them() -> None:
    for noise, head in (("seeded", "frozen"), ("os", "frozen"), ("seeded", "trained")):
        release = "once" if head == "frozen" else "always"
        told = str(stated(Gaussian(epsilon=8.0), noise=noise, head=head, release=release))
        assert ("whoever knows the seed knows the noise" in told) is (noise == "seeded")
        assert ("neither the initial weights nor the auxiliary rows are private" in told) is (head == "frozen")


def test_noise_of_the_operating_system_is_new_each_time_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    runs = [
        session(Gaussian(epsilon=8.0), noise=noise, checkpoint=tmp_path / noise) for noise in ("os", "os", "seeded")
    ]
    sent = [found.transcript.releases("training") for found in runs]
    assert sent[0] is not None
    assert sent[1] is not None
    assert not torch.equal(sent[0].smashed, sent[1].smashed)
    assert [path.name for path in tmp_path.iterdir()] == ["seeded"]
