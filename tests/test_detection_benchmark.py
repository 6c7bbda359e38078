# SPDX-License-Identifier: Apache-2.0
"""The table of detectors: medians and ranges over the sessions that raised the alarm, a dash where none did."""

from __future__ import annotations

from typing import Any

from benchmarks.detection import HEAD, matrix, table
from splitguard.metrics.stats import clopper_pearson


def session(detector: str, server: str, seed: int, step: int | None, leakage: float | None = None) -> dict[str, Any]:
    raised = None if detector == "none" else step is not None
    rows = None if step is None else 64 * (step + 1)
    return {
        "detector": detector, "server": server, "seed": seed, "accuracy": 0.5, "leakage": leakage, "judgements": 9,
        "raised": raised, "step": step, "rows": rows,
    }  # fmt: skip


def test_the_table() -> None:
    found = [session("none", "fsha", seed, None, 0.4 + seed / 100) for seed in (7, 8, 9)]
    found += [session("outlier-probe", "fsha", seed, step, 0.1) for seed, step in ((7, 9), (8, 19), (9, 11))]
    found += [session("outlier-probe", "honest", seed, None) for seed in (7, 8, 9)]
    found += [session("gradient-scrutinizer", "honest", 7, 20)]
    page = table({"rows": 2000, "steps": 256, "seeds": [7, 8, 9], "sessions": found})
    low, one = clopper_pearson(3, 3).low, clopper_pearson(1, 1).low
    assert page.splitlines()[-6:] == [
        f"| {' | '.join(HEAD)} |",
        "|---|---|---|---|---|---|---|---|",
        "| none | fsha | no detector | — | — | — | 0.48 (0.47 to 0.49) | 0.500 |",
        f"| gradient-scrutinizer | honest | 1 of 1 [{one:.2f}, 1.00] | 9 | 21 | 1,344 | — | 0.500 |",
        f"| outlier-probe | honest | 0 of 3 [0.00, {clopper_pearson(0, 3).high:.2f}] | 27 | — | — | — | 0.500 |",
        f"| outlier-probe | fsha | 3 of 3 [{low:.2f}, 1.00] | 27 | 12 (10 to 20) | 768 (640 to 1,280) | 0.10 | 0.500 |",
    ]
    assert "2,000 training rows" in page
    assert "256 steps" in page
    assert "seeds 7 to 9." in page
    assert "seeds 7, 9." in table({"rows": 2000, "steps": 256, "seeds": [7, 9], "sessions": []})


def test_every_detector_meets_both_servers_on_every_seed() -> None:
    asked = matrix(seeds=[7, 8, 9], epochs=8, rows=2000)
    assert asked["defense"] == ["none", "fake-batch-probe", "gradient-scrutinizer", "outlier-probe"]
    assert asked["attack"] == ["candidate-match", "fsha"]
    assert asked["seeds"] == [7, 8, 9]
    # A head that is frozen, or labels that are not sent, would have every detector refuse.
    assert "head" not in asked["train"]
    assert asked["mode"] == "vanilla"
