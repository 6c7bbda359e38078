# SPDX-License-Identifier: Apache-2.0
"""The table of defenses: leakage to attackers who know the defense beside leakage to those who do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.suite.cells import Row, line, number, place
from benchmarks.versions import changed, versions
from splitguard.matrix import Results
from splitguard.matrix.cell import Cell
from splitguard.metrics import paired_difference

__all__ = ["LOSS", "defense_rows", "defense_table"]

#: By how much knowing a defense may cost an attacker before the table says so.
LOSS = -0.02
#: Of honest training: with the defense, what it costs against none, and what auxiliary rows alone teach.
ACCURACIES = ("accuracy", "accuracy_drop", "aux_accuracy")
HEADER = (
    "defense", "deployment", "accuracy", "aux alone", "epsilon", "attack", "after", "adaptive", "static", "gap",
    "at least",
)  # fmt: skip


def defense_rows(results: Results) -> list[Row]:
    """One row a deployment and attack: means over seeds, adaptive and static, and of their difference seed by seed.

    One without a number has the reason, ``refused``.
    """
    found: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    said: dict[tuple[str, ...], Row] = {}
    for record in results.records:
        if record.phase != "training":
            continue
        cell, value = record.cell, record.values.get("leakage")
        key = (cell.mode, cell.labels, "..".join(cell.cuts), _task(cell), cell.defended(), str(cell.attack), cell.goal)
        own = found.setdefault(key, {kind: {} for kind in ("adaptive", "static", *ACCURACIES)})
        honest = record.honest() or record  # an attack that takes part in its own training says nothing of accuracy
        stated = _stated(honest.extra.get("guarantee_data", ()))
        said.setdefault(key, {"guarantee": stated, "refused": record.reason, "versions": versions([cell])})
        if value is None:
            continue
        said[key]["refused"] = None
        twin = cell.paired_key()
        own["adaptive" if cell.adaptive else "static"][twin] = float(value)
        for name in ACCURACIES:
            told = honest.values.get(name)
            if told is not None:
                own[name][twin] = float(told)
    names = ("mode", "labels", "cut", "task", "defense", "attack", "goal")
    return [
        {
            **dict(zip(names, key, strict=True)),
            **said[key],
            **{k: float(np.mean(list(v.values()))) if v else None for k, v in own.items()},
            **_paid(own["adaptive"], own["static"]),
        }
        for key, own in found.items()
    ]


def _task(cell: Cell) -> str:
    """``"2 classes"`` where the labels are coarse; empty where they are those of the data."""
    coarse = cell.data.get("coarse")
    return f"{len(set(coarse))} classes" if coarse else ""


def _stated(guarantees: Iterable[Mapping[str, Any]]) -> str:
    """Each epsilon with what it is about: ``"2 (labels)"``, or ``"8 (inputs, releases)"`` without the whole view."""
    told = []
    for stated in guarantees:
        whole = stated["epsilon"] is not None
        epsilon = stated["epsilon" if whole else "epsilon_rows"]
        if epsilon is not None:
            told.append(f"{epsilon:.3g} ({stated['channel']}{'' if whole else ', releases'})")
    return " + ".join(told)


def _paid(adaptive: Mapping[str, float], static: Mapping[str, float]) -> Row:
    """The mean of adaptive - static over the pairs that are whole, and its one-sided lower 95 % limit over seeds."""
    pairs = [twin for twin in adaptive if twin in static]
    if not pairs:
        return {"gap": None, "gap_at_least": None, "pairs": 0}
    paid = paired_difference([adaptive[p] for p in pairs], [static[p] for p in pairs])
    return {"gap": paid.mean, "gap_at_least": paid.at_least, "pairs": paid.n}


def defense_table(rows: Sequence[Row]) -> str:
    """Markdown: leakage to attackers who know the defense beside leakage to those who do not."""
    measured = [row for row in rows if row["adaptive"] is not None or row["static"] is not None]
    lost = [row for row in rows if row["gap_at_least"] is not None and row["gap_at_least"] < LOSS]
    lines = [
        "# Every defense against its breakers",
        "",
        *_headline(rows),
        "",
        "Fashion-MNIST, 3,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the",
        "defense and its settings, *static* ones do not; leakage is 0 for a blind guess and 1 for perfect recovery.",
        "The gap is how far the second would mislead, paired seed by seed, and *at least* its one-sided lower 95 %",
        f"limit (Student t over seeds, by row). A limit below {LOSS}, marked !, says that knowing the defense may have",
        "cost the attacker something, which is a fault of the attack and no merit of the defense, or that the seeds",
        "are too few. Where the gap is 0 in every seed the attack has no use for what it knows. Settings that are",
        "not shown are the defaults. Accuracy is that of honest training, in brackets against the same deployment",
        "without a defense; *aux alone* is what the auxiliary rows teach without any private one, where the head is",
        "frozen. Epsilon is that of the whole view, or of the releases alone where it says so. The detectors of a",
        "hijacker have a page of their own, docs/detection.md. Made by `python -m benchmarks.suite defenses`.",
        "",
        "## The strongest breaker of each",
        "",
        "What an evaluation with attackers who know the defense reports, and what one without them does: of all",
        "breakers the largest mean leakage. The choice is made on the victims that are shown, so both are a little",
        "too high, and no gap of single attacks need be that of the strongest.",
        "",
        *_strongest(measured),
        "",
        "## Every breaker",
        "",
        line(HEADER),
        "|" + "---|" * len(HEADER),
    ]
    for row in measured:
        leaks = [number(row[name]) for name in ("adaptive", "static", "gap", "gap_at_least")]
        leaks[-1] += " !" if row in lost else ""
        attack = row["attack"] + (" *" if changed(row["versions"]) else "")
        lines.append(line([*_deployment(row), attack, row["goal"], *leaks]))
    told = sum(row["gap_at_least"] is not None for row in rows)
    lines += ["", f"Limits of at least {LOSS}: {told - len(lost)} of {told}.", *_refused(rows, measured)]
    if any(changed(row["versions"]) for row in measured):
        lines += ["", "\\* of an earlier version of the attack or of the defense: to be run again."]
    return "\n".join(lines) + "\n"


def _strongest(rows: Sequence[Row]) -> list[str]:
    """A line a deployment and goal."""
    header = (*HEADER[:5], "after", "strongest adaptive", "strongest static")
    told = [
        [*_deployment(own[0]), own[0]["goal"], *(_by(own, kind) for kind in ("adaptive", "static"))]
        for own in _together(rows)
    ]
    return [line(header), "|" + "---|" * len(header), *map(line, told)]


def _by(rows: Sequence[Row], kind: str) -> str:
    """``"0.832 by white-box-inversion"``; empty where no attack was run so."""
    best = _largest(rows, kind)
    return "" if best is None else f"{number(best[kind])} by {best['attack']}"


def _together(rows: Sequence[Row]) -> list[list[Row]]:
    """All breakers of one deployment that go after the same."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["defense"], _place(row), row["goal"]), []).append(row)
    return list(groups.values())


def _largest(rows: Sequence[Row], kind: str) -> Row | None:
    """The row of the strongest attack, adaptive or static; None where none was run so."""
    return max((row for row in rows if row[kind] is not None), key=lambda row: row[kind], default=None)


def _deployment(row: Row) -> list[str]:
    """The first five fields of a line."""
    drop = row["accuracy_drop"]
    accuracy = number(row["accuracy"]) + ("" if drop is None else f" ({-drop:+.3f})")
    return [row["defense"], _place(row), accuracy, number(row["aux_accuracy"]), row["guarantee"]]


def _place(row: Row) -> str:
    """The deployment, and the task where it is not that of the data."""
    return ", ".join(filter(None, (place(row), row["task"])))


def _refused(rows: Sequence[Row], measured: Sequence[Row]) -> list[str]:
    """The breakers that no row above has a number of, with the reason."""
    have = {(row["defense"], row["attack"]) for row in measured}
    left = [row for row in rows if (row["defense"], row["attack"]) not in have]
    told = [f"- Not run: {row['attack']} on {row['defense']}: {row['refused'] or 'no leakage'}." for row in left]
    return ["", *told] if told else []


def _headline(rows: Sequence[Row]) -> list[str]:
    """Where knowing the defense pays most: the five widest gaps that are clear of zero."""
    clear = [row for row in rows if row["gap_at_least"] is not None and row["gap_at_least"] > 0]
    widest = sorted(clear, key=lambda row: -row["gap"])[:5]
    if not widest:
        return ["In no row does an attacker who knows the defense gain clearly."]
    told = [
        f"{row['attack']} on {row['defense']}, {number(row['static'])} to {number(row['adaptive'])}" for row in widest
    ]
    told_of = sum(row["gap_at_least"] is not None for row in rows)
    gains = f"In {len(clear)} of {told_of} rows an attacker who knows the defense gains clearly"
    return [f"**{gains}; most in** {'; '.join(told)}.", "", *_headline_of_the_strongest(rows)]


def _headline_of_the_strongest(rows: Sequence[Row]) -> list[str]:
    """By how much an evaluation without adaptive attackers would have been wrong: the five widest."""
    gaps = []
    for own in _together(rows):
        knows, does_not = _largest(own, "adaptive"), _largest(own, "static")
        if knows is not None and does_not is not None:
            gaps.append((knows["adaptive"] - does_not["static"], knows, does_not))
    widest = sorted(gaps, key=lambda found: -found[0])[:5]
    told = [
        f"{knows['goal']} on {knows['defense']}, {number(does_not['static'])} to {number(knows['adaptive'])}"
        for _, knows, does_not in widest
    ]
    return [f"**Of the strongest breakers of each kind, most in** {'; '.join(told)}."]
