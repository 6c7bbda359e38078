# SPDX-License-Identifier: Apache-2.0
"""Label attacks where labels are sent: refused as given, unless a defense changed them on the way."""

from __future__ import annotations

from pathlib import Path

from splitguard.matrix import Matrix
from tests.matrix.toys import QUICK

LABEL_DP = {"label-dp": {"epsilon": 1.5}}


def test_stated_labels_are_a_goal_only_where_a_defense_changes_them(tmp_path: Path) -> None:
    matrix = Matrix(
        {
            **QUICK,
            "attack": ["stated-labels", "gradient-norm"],
            "defense": ["none", LABEL_DP, [LABEL_DP, {"nopeek": {"weight": 0.1}}]],
        }
    )
    results = matrix.run(tmp_path, progress=False)
    told = {(r.cell.attack.name, r.cell.defended()): r for r in results.records}
    given = "this adversary (the server) is given the labels"
    for defense, attack in (
        (d, a) for d in ("none", "label-dp(epsilon=1.5)") for a in ("stated-labels", "gradient-norm")
    ):
        record = told[attack, defense]
        assert (record.status == "ok") == (defense != "none" and attack == "stated-labels")
        assert defense != "none" or (record.reason or "").startswith(given)
    assert str(told["gradient-norm", "label-dp(epsilon=1.5)"].reason).startswith("the server never sees: label grad")
    scored = told["stated-labels", "label-dp(epsilon=1.5)"]
    row = scored.row()
    assert (row["adversary"], row["profile"], row["phase"], row["n"]) == ("server", "black-box", "training", 18)
    assert row["label_auc"] is not None
    assert row["blind"] is not None
    summary = results.summary.set_index("defense")["worst_label_attack"]
    assert list(summary.notna()) == [False, True, True]
