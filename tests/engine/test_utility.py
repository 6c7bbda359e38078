# SPDX-License-Identifier: Apache-2.0
"""The area under the ROC curve on the test rows: scikit-learn's, of two classes only, kept with the session."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from splitguard.data.rows import Data, Rows
from splitguard.engine.defense import Context
from splitguard.engine.deployed import Deployed, Utility
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.engine.wire import Phase
from splitguard.matrix.outcome import session_outcome
from tests.engine import toys

NOWHERE = Context(torch.empty(0, dtype=torch.int64), -1, 0, 0, Phase.EVALUATION)


def two_classes() -> Data:
    """The toy data with its last two classes as one."""
    whole = toys.data(2)

    def merged(rows: Rows) -> Rows:
        return replace(rows, labels=rows.labels.clamp(max=1))

    parts: dict[str, Any] = {name: merged(getattr(whole, name)) for name in ("train", "test", "aux", "query")}
    return replace(whole, classes=2, **parts)


def network() -> nn.Sequential:
    out = toys.lenet()
    out.fc2 = nn.Linear(16, 2)
    return out


@pytest.mark.parametrize("evaluate", ["last", "epoch"])
def test_a_session_of_two_classes_has_the_area_that_scikit_learn_finds(evaluate: str, tmp_path: Path) -> None:
    data = two_classes()
    training = Training.parse({"epochs": 2, "batch_size": 8, "evaluate": evaluate})
    session = train(network(), data, training=training, cut="conv2")
    with torch.no_grad():
        logits = session.split(data.test.inputs)
    wanted = roc_auc_score(data.test.labels.numpy(), logits.softmax(1)[:, 1].double().numpy())
    assert session.auc == pytest.approx(wanted)
    assert session.history[-1]["auc"] == session.auc
    assert ("auc" in session.history[0]) is (evaluate == "epoch")
    assert session_outcome(session).values["auc"] == session.auc
    session.save(tmp_path)
    assert Session.load(tmp_path, module=network(), data=data).auc == session.auc
    facts = json.loads((tmp_path / "session.json").read_text())
    del facts["auc"]  # as sessions were saved before
    (tmp_path / "session.json").write_text(json.dumps(facts))
    older = Session.load(tmp_path, module=network(), data=data)
    assert (older.auc, older.accuracy) == (None, session.accuracy)


def test_of_more_classes_there_is_none_and_no_column() -> None:
    session = train(toys.lenet(), toys.data(1), training=Training(epochs=1, batch_size=8), cut="conv2")
    assert session.auc is None
    assert set(session.history[0]) == {"epoch", "loss", "accuracy"}
    assert "auc" not in session_outcome(session).values


class Told(nn.Module):
    """Whatever the input, these logits in turn."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, K)."""
        return self.logits[x.flatten(1)[:, 0].long()]


@pytest.mark.parametrize(
    ("margins", "labels", "wanted"),
    [
        ([3.0, 1.0, 2.0, 0.0], [1, 0, 1, 0], Utility(0.75, 1.0)),  # ranked rightly, with one above 0
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0], Utility(0.5, 0.5)),
        ([1.0, 1.0, -1.0, -1.0], [1, 1, 1, 1], Utility(0.5, None)),
        ([math.inf, 1.0, 2.0, -1.0], [1, 0, 1, 0], Utility(0.75, None)),
    ],
)
def test_ranks_count_and_what_cannot_be_ranked_is_missing(
    margins: list[float], labels: list[int], wanted: Utility
) -> None:
    rows = Rows(torch.arange(4.0).view(4, 1, 1, 1), torch.tensor(labels), torch.arange(4))
    logits = torch.stack([torch.zeros(4), torch.tensor(margins)], dim=1)
    pipeline = Deployed((nn.Identity(), Told(logits)), None, torch.Generator(), torch.device("cpu"))
    assert pipeline.utility(rows, NOWHERE) == wanted
    assert pipeline.utility(rows[torch.arange(0)], NOWHERE) == Utility()
