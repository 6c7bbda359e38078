# SPDX-License-Identifier: Apache-2.0
"""The table of the codebook: what is left of the accuracy, whether the private rows paid, and what breakers get."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.suite.cells import Row, line, number
from benchmarks.versions import changed, versions
from splitguard.matrix import Record, Results
from splitguard.metrics import paired_difference
from splitguard.privacy import accuracy_bound_pure

__all__ = ["SKETCH", "codebook_rows", "codebook_table"]

#: Of Fashion-MNIST, each with as many test rows as any other.
CLASSES = 10
#: What an early sketch gave with 2,000 labelled auxiliary rows: defense, epsilon, accuracy.
SKETCH = (
    ("codebook", 8, 0.811),
    ("codebook", 6, 0.756),
    ("gaussian", 8, 0.189),
    ("none", None, 0.860),
)
SKETCHED_AUX, SKETCHED_ALONE = 2000, 0.833
#: Breakers whose success is a leakage; that of the remaining one is how often it names the right candidate.
LEAKING = ("white-box-inversion", "inverse-network")
HEAD = (
    "auxiliary rows", "defense", "words", "epsilon", "accuracy", "no mechanism above", "auxiliary alone", "gain",
    "at least", *LEAKING, "strongest", "named", "no more than",
)  # fmt: skip
WORST = ("worst_input", "worst_input_high", "worst_input_attack")


def codebook_rows(results: Results) -> list[Row]:
    """One row a deployment: means over seeds, member victims."""
    groups: dict[str, list[Record]] = {}
    for record in results.records:
        groups.setdefault(record.cell.deployment_key(), []).append(record)
    rows = []
    for found in results.summary.to_dict("records"):
        own = groups[found["deployment"]]
        cell = own[0].cell
        members = [r for r in own if r.phase == "training" and r.status == "ok"]
        told = [r.values for r in members if r.cell.goal == "candidates"]
        taken = ("epsilon", "delta", "accuracy", "aux_accuracy", *WORST)
        rows.append(
            {
                "aux": cell.data["aux"],
                "labelled": cell.training["pretrain_epochs"] != 0,
                "defense": cell.defended(),
                "versions": versions(r.cell for r in own),
                "words": _words(own),
                **{name: None if found[name] != found[name] else found[name] for name in taken},
                **_gain({r.cell.seed: r.values for r in own}),
                "breakers": {attack: _leakage(members, attack) for attack in LEAKING},
                "choices": _mean([v.get("choice_accuracy") for v in told]),
                "bound": _mean([v.get("bound") for v in told]),
            }
        )
    return rows


def _leakage(records: Sequence[Record], attack: str) -> float | None:
    """Of one attack, over seeds."""
    return _mean([r.values.get("leakage") for r in records if r.cell.attack.name == attack])


def _words(records: Sequence[Record]) -> str:
    """How many parts and words the seeds made of the settings: ``"1 x 10"``; empty for another defense."""
    stated = [g["mechanism"] for r in records for g in r.extra.get("guarantee_data", ())]
    return ", ".join(sorted({told.split(" words")[0] for told in stated if " words of a public codebook" in told}))


def _gain(by_seed: Mapping[int, Mapping[str, Any]]) -> Row:
    """Accuracy less what auxiliary rows alone reach, and its one-sided 95 % limits over seeds (Student t, paired)."""
    pairs = [(v["accuracy"], v["aux_accuracy"]) for v in by_seed.values() if v.get("aux_accuracy") is not None]
    if not pairs:
        return dict.fromkeys(("gain", "gain_at_least", "gain_at_most"))
    paid = paired_difference([own for own, _ in pairs], [alone for _, alone in pairs])
    return {"gain": paid.mean, "gain_at_least": paid.at_least, "gain_at_most": paid.at_most}


def codebook_table(rows: Sequence[Row]) -> str:
    """Markdown: what is left of the accuracy, and of the victims."""
    rows = sorted(rows, key=lambda row: (not row["labelled"], -row["aux"]))
    lines = [
        "# A deployment that can be signed",
        "",
        "Fashion-MNIST, 20,000 private rows at 5 clients, a LeNet cut at fc1, a public and frozen head, each row sent",
        "once, means over 3 seeds. Epsilon is for the server's whole view and any two inputs (replace-one), queries",
        "included: pure for `codebook`, at delta 1e-5 for `gaussian`. Settings that are not shown are the defaults;",
        "*words* are the parts and words that `words: auto` made of them.",
        "",
        "*No mechanism above* is the largest accuracy of any mechanism with this pure epsilon, whatever it sends and",
        "however it is trained: e^epsilon / (e^epsilon + 9) for 10 equally likely classes. *Auxiliary alone* is what",
        "the network reaches that the head was pre-trained with, before the server has seen any private row; another",
        "classifier of the same rows may reach a little more or less. Without labels there is no such number, and the",
        "head keeps its random weights. *Gain* is what the deployment reaches beyond it, paired seed by seed, and",
        "*at least* its one-sided lower 95 % limit (Student t over seeds, each row by itself).",
        "",
        "The two breakers that rebuild inputs are shown with their leakage, 0 for a blind guess and 1 for perfect",
        "recovery. *Strongest* is the one that was chosen on one half of the victims, reported on the other, with the",
        "upper end of its 95 % interval. *Named* is how often candidate-match named the right one of 32 candidates,",
        "beside the share that no attacker can beat who judges each row by itself.",
        "Made by `python -m benchmarks.suite codebook`.",
        "",
        "A head that is pre-trained to be coded, through its words or their noisy answers, was tried at epsilon 4 with",
        "2,000 and with 50 labelled auxiliary rows: it is nowhere clearly above a plain one",
        "([evidence.md](evidence.md)).",
        "",
        *_where_it_pays(rows),
        "",
        *_against_the_sketch(rows),
        "",
        "## The most accurate at each epsilon",
        "",
        "Of the codebooks below, by the accuracy that is shown, which is therefore a little too high where there are",
        "several.",
        "",
        line(HEAD),
        line(["---"] * len(HEAD)),
        *(line(_fields(row)) for row in _best(rows)),
        "",
        "## Every deployment",
        "",
        line(HEAD),
        line(["---"] * len(HEAD)),
        *(line(_fields(row)) for row in rows),
    ]
    if outdated := sorted({name for row in rows for name in changed(row["versions"])}):
        lines += ["", f"\\* of an earlier version of {', '.join(outdated)}: to be run again."]
    return "\n".join(lines) + "\n"


def _fields(row: Row) -> list[str]:
    """One line."""
    worst = number(row["worst_input"])
    if worst:
        worst += f" by {row['worst_input_attack']} (up to {number(row['worst_input_high'])})"
    return [
        _known(row),
        _shown(row) + (" *" if changed(row["versions"]) else ""),
        row["words"],
        number(row["epsilon"], 0),
        number(row["accuracy"]),
        number(_ceiling(row)),
        number(row["aux_accuracy"]),
        *("" if row[name] is None else f"{row[name]:+.3f}" for name in ("gain", "gain_at_least")),
        *(number(row["breakers"][attack]) for attack in LEAKING),
        worst,
        number(row["choices"]),
        number(row["bound"]),
    ]


def _known(row: Row) -> str:
    """The auxiliary rows, for people."""
    return f"{row['aux']:,}, {'labelled' if row['labelled'] else 'no labels'}"


def _shown(row: Row) -> str:
    """The defense with its settings but for epsilon, which has a column."""
    name, _, settings = row["defense"].removesuffix(", head frozen").partition("(")
    told = [part for part in settings.rstrip(")").split(", ") if part and not part.startswith("epsilon=")]
    return ", ".join([name, *told])


def _ceiling(row: Row) -> float | None:
    """The accuracy that no mechanism with this pure epsilon exceeds."""
    return accuracy_bound_pure(classes=CLASSES, epsilon=row["epsilon"]) if row["delta"] == 0 else None


def _codebooks(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["defense"].startswith("codebook")]


def _best(rows: Sequence[Row]) -> list[Row]:
    """The most accurate codebook for each kind of auxiliary rows and each epsilon."""
    best: dict[tuple[str, float], Row] = {}
    for row in _codebooks(rows):
        place = (_known(row), row["epsilon"])
        if place not in best or row["accuracy"] > best[place]["accuracy"]:
            best[place] = row
    return list(best.values())


def _where_it_pays(rows: Sequence[Row]) -> list[str]:
    """For each number of labelled auxiliary rows, what the bound forbids and where the gain is clear of zero."""
    lines = ["**Where the private rows pay.** Against what labelled auxiliary rows reach alone,", ""]
    told = [row for row in _codebooks(rows) if row["aux_accuracy"] is not None]
    for aux in sorted({row["aux"] for row in told}):
        here = [row for row in told if row["aux"] == aux]
        alone = float(np.mean([row["aux_accuracy"] for row in here]))
        tested = [row for row in here if row["gain_at_least"] is not None]
        above = {row["epsilon"] for row in tested if row["gain_at_least"] > 0}
        below = {row["epsilon"] for row in tested if row["gain_at_most"] < 0} - above
        said = f"the codebook is clearly above {_at(above)}, clearly below {_at(below)}" if tested else "not tested"
        lines.append(f"- {aux:,} rows, {number(alone)}: no mechanism below epsilon {number(_least(alone), 1)}; {said}")
    said = "Clearly is by a paired one-sided 95 % test over seeds of each row by itself; what is named nowhere was too"
    return [
        *lines,
        "",
        said,
        "close to tell. Without labels auxiliary rows alone teach no class, and any accuracy above 0.1 is a gain.",
    ]


def _least(accuracy: float) -> float:
    """The epsilon at which the bound on accuracy is this one: ``log((K - 1) a / (1 - a))``, 0 at chance or below."""
    return max(math.log((CLASSES - 1) * accuracy / (1 - accuracy)), 0.0) if accuracy > 0 else 0.0


def _at(epsilons: Collection[float]) -> str:
    return f"at epsilon {', '.join(f'{e:g}' for e in sorted(epsilons))}" if epsilons else "nowhere"


def _against_the_sketch(rows: Sequence[Row]) -> list[str]:
    """What an early sketch gave, and what the same deployment gives here: its most accurate row."""
    same = [row for row in rows if row["aux"] == SKETCHED_AUX and row["labelled"]]
    lines = [
        f"An early sketch with {SKETCHED_AUX:,} labelled auxiliary rows had 64 words at epsilon 8 and 16 at epsilon 6,",
        "answered by randomised response. Its accuracy, and that of the most accurate such row below:",
        "",
    ]
    for name, epsilon, accuracy in SKETCH:
        own = [row["accuracy"] for row in same if _is(row, name, epsilon)]
        at = "" if epsilon is None else f" at epsilon {epsilon}"
        lines.append(f"- {name}{at}: {accuracy:.3f}, here {number(max(own)) if own else 'not run'}")
    alone = [row["aux_accuracy"] for row in same if row["aux_accuracy"] is not None]
    return [*lines, f"- auxiliary alone: {SKETCHED_ALONE:.3f}, here {number(max(alone)) if alone else 'not run'}"]


def _is(row: Row, name: str, epsilon: float | None) -> bool:
    """Whether a row is of this defense and this epsilon, which may be one that rounds to it."""
    return _shown(row).split(",")[0] == name and number(row["epsilon"], 0) == number(epsilon, 0)


def _mean(values: Sequence[Any]) -> float | None:
    """None unless all are there."""
    return float(np.mean(values)) if values and all(v is not None for v in values) else None
