# SPDX-License-Identifier: Apache-2.0
"""FSHA met by the three detectors: how soon each raises the alarm, how often wrongly, and what was lost by then.

Run: ``python -m benchmarks.detection [--out FILE]``. Fashion-MNIST, LeNet, cut conv2, 2,000 rows, twenty seeds; each
detector with its default settings meets an honest server and one that hijacks by feature-space hijacking, and ends the
session at its alarm. Under half an hour with ``--jobs 2`` on two cores. ``--stored`` makes the table of the stored run
again and writes it to docs/detection.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splitguard.matrix import Matrix, Results
from splitguard.metrics.stats import clopper_pearson

__all__ = ["matrix", "sessions", "table"]

STORED = Path(__file__).parent / "results" / "detection.json"
DOCS = Path(__file__).parents[1] / "docs" / "detection.md"
DETECTORS = ("fake-batch-probe", "gradient-scrutinizer", "outlier-probe")
HONEST, HIJACKER = "honest", "fsha"
#: Costs next to nothing and changes nothing, so that there is a record of each honest session.
BYSTANDER = "candidate-match"
FLAGGED = "sessions flagged [95 %]"
HEAD = (
    "detector",
    "server",
    FLAGGED,
    "judgements",
    "steps until the alarm",
    "rows sent by then",
    "leakage",
    "accuracy",
)
INTRODUCTION = """# Detecting a hijacker

Made by `python -m benchmarks.detection --stored`. Fashion-MNIST, LeNet cut at conv2, {rows:,} training rows, batches of
64, {steps} steps where nobody stops, seeds {seeds}. The server is honest, or hijacks by `fsha` from the first step; a
detector with its default settings ends the session at its alarm. Steps and rows count what had been sent by then, the
step of the alarm included; judgements are how often the detector decided, over all sessions; leakage is of those member
victims that were sent, 0 a blind guess, 1 perfect. A server that knows the detector may escape it; this one does not
try, and even undetected it reads little more than a blind guess in so few steps. What a detector costs is the accuracy
beside an honest server.
"""


def matrix(*, seeds: Sequence[int], epochs: int, rows: int) -> dict[str, Any]:
    """The matrix file of the benchmark."""
    return {
        "title": "FSHA met by detectors",
        "data": {
            "name": "fashion-mnist",
            "train": rows,
            "test": 1000,
            "aux": 1000,
            "victims": {"member": 64, "query": 8},
        },
        "model": "lenet",
        "mode": "vanilla",
        "cut": "conv2",
        "defense": ["none", *DETECTORS],
        "attack": [BYSTANDER, HIJACKER],
        "profile": "active",
        "train": {"epochs": epochs, "batch_size": 64, "optimizer": {"name": "adam", "lr": 0.001}},
        "seeds": list(seeds),
    }


def sessions(results: Results) -> list[dict[str, Any]]:
    """One entry a session: who watched whom with which seed, the alarm, and what was leaked and learnt."""
    out = []
    for record in results.records:
        if record.phase != "training":
            continue
        if record.status != "ok":
            raise SystemExit(f"{record.cell.label()}: {record.status}, {record.reason}")
        told = record.values
        entry = {
            "detector": record.cell.defended(),
            "server": HIJACKER if record.cell.active else HONEST,
            "seed": record.cell.seed,
            "accuracy": told.get("accuracy"),
            "leakage": told.get("leakage") if record.cell.active else None,
        }
        out.append(entry | {name: told.get(f"alarm_{name}") for name in ("judgements", "raised", "step", "rows")})
    return out


def table(stored: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    head = INTRODUCTION.format(rows=stored["rows"], steps=stored["steps"], seeds=_told(stored["seeds"]))
    return "\n".join([head, *_lines(stored["sessions"])]) + "\n"


def _lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(HEAD)} |"
    yield "|" + "---|" * len(HEAD)
    for detector in ("none", *DETECTORS):
        for server in (HONEST, HIJACKER):
            group = [one for one in found if (one["detector"], one["server"]) == (detector, server)]
            if not group:
                continue
            raised = [one for one in group if one["raised"]]
            limits = clopper_pearson(len(raised), len(group))
            flagged = f"{len(raised)} of {len(group)} [{limits.low:.2f}, {limits.high:.2f}]"
            yield " | ".join(
                [
                    f"| {detector} | {server}",
                    "no detector" if detector == "none" else flagged,
                    "—" if detector == "none" else f"{sum(one['judgements'] or 0 for one in group):,}",
                    _middle([one["step"] + 1 for one in raised], "{:.0f}"),
                    _middle([one["rows"] for one in raised], "{:,.0f}"),
                    _middle([one["leakage"] for one in group if one["leakage"] is not None], "{:.2f}"),
                    f"{_middle([one['accuracy'] for one in group], '{:.3f}')} |",
                ]
            )


def _told(seeds: Sequence[int]) -> str:
    """``"7 to 26"`` where none between is left out."""
    whole = len(seeds) > 2 and list(seeds) == [*range(seeds[0], seeds[-1] + 1)]
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _middle(values: Sequence[float], form: str) -> str:
    """Median and range; a dash for none."""
    if not values:
        return "—"
    said = form.format(statistics.median(values))
    ends = form.format(min(values)), form.format(max(values))
    return said if ends[0] == ends[1] else f"{said} ({ends[0]} to {ends[1]})"


def main() -> None:
    """Runs and stores, or reads what is stored; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(7, 27)])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1, help="the numbers do not depend on it")
    parser.add_argument("--run", type=Path, help="keep the run folder here, and go on from it")
    parser.add_argument("--out", type=Path, default=STORED)
    parser.add_argument("--stored", action="store_true")
    given = parser.parse_args()
    if not given.stored:
        asked = Matrix(matrix(seeds=given.seeds, epochs=given.epochs, rows=given.rows))
        with tempfile.TemporaryDirectory() as fresh:
            found = sessions(asked.run(given.run or Path(fresh), jobs=given.jobs))
        steps = given.epochs * -(-given.rows // 64)
        made = {"rows": given.rows, "steps": steps, "seeds": given.seeds, "sessions": found}
        given.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    text = table(json.loads(given.out.read_text(encoding="utf-8")))
    if given.stored:
        DOCS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
