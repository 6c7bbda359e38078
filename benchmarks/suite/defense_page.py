# SPDX-License-Identifier: Apache-2.0
"""The page of defenses: leakage to attackers who know the defense beside leakage to those who do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.suite.cells import Row, line, number, place
from benchmarks.suite.defenses import KINDS
from benchmarks.versions import changed

__all__ = ["LOSS", "again_table", "defense_table", "others_table"]

#: By how much knowing a defense may cost an attacker before the table says so.
LOSS = -0.02
#: An attack that leaks less than this where nothing defends has nothing that a defense could take from it.
LITTLE = 0.1
HEADER = (
    "defense", "deployment", "accuracy", "aux alone", "epsilon", "attack", "after", "adaptive", "static", "gap",
    "at least", "limit", "steps",
)  # fmt: skip
INTRODUCTION = f"""
Fashion-MNIST, 3,000 rows, a LeNet, 32 member victims, means over seeds. *adaptive* attackers know the defense and its
settings, *static* ones do not; leakage is 0 for a blind guess and 1 for perfect recovery. The gap is how far the second
would mislead, paired seed by seed, and *at least* its one-sided lower 95 % limit (Student t over seeds, by row). A
limit below {LOSS}, marked !, says that knowing the defense may have cost the attacker something, which is a fault of
the attack and no merit of the defense, or that the seeds are too few; docs/again.md has such rows again, on seeds that
had no part in marking them. Where the gap is 0 in every seed the attack has no use for what it
knows; detectors meet adaptive attackers alone, as their breakers act on nothing that they know of a detector. Attackers
of labels see the gradients of one epoch, the first. *weak* marks an attack that by its own loss has not got as far as
the true image, in one seed or more: its leakage is a lower bound. *steps* are those of the optimizer,
tuning included, in brackets the static attacker's where it took others: beside a session with a penalty (nopeek,
adversarial, cem) adaptive sdar, pcat and fora train a second stand-in beside the static attacker's and answer with the
mean of both, so that part of these gaps is what the mean of any two would gain.

Settings that are not shown are the defaults. Accuracy is that of honest training, in brackets against the same
deployment without a defense, and *unusable* near that of the largest class; *aux alone* is what the auxiliary rows
teach without any private one, where the head is frozen. Epsilon is that of the whole view, or of the releases alone
where it says so. *limit* is the share of victims named, as a candidate or as the one that a guessed image is nearest
to, beside the one that no attacker can beat who judges each row by itself; and of images the mean squared error beside
the one below which no *unbiased* attacker is, where the noise has one: attackers with a prior may be, and are. The
detectors of a hijacker have a page of their own, docs/detection.md. Made by `python -m benchmarks.suite defenses`.
"""
STRONGEST = """
## The strongest breaker of each

What an evaluation with attackers who know the defense reports, and what one without them does: of all breakers the one
with the largest mean leakage. Of inputs and labels it is chosen on one half of the victims and told of the other, so
that numbers may differ from those below. No gap of single attacks need be that of the strongest.
"""

PARTED = """
Rows were measured in more than one run, on machines whose rounding differs: in {} of the deployments rows are of more
than one training, with other accuracies. Compare within a row.
"""
AGAIN = f"""
# Marked rows on fresh seeds

Rows of docs/defenses.md whose limit was below {LOSS} when they were measured on seeds 7, 8 and 9, on seeds that had no
part in marking them. Of {{}} to {{}} seeds; benchmarks/suite/again.yaml has them, and tells which rows were given more
after a first look. Columns are those of that page. A limit that is marked here again is not explained by too few seeds.
Made by `python -m benchmarks.suite again`.
"""

OTHERS = """
# Other attackers against noise and masks

Attackers that none of these defenses names among its breakers; all but query-free go by what they know of the defense
without trying what others do. Of {} to {} seeds; benchmarks/suite/others.yaml has them, and tells what was run first.
Columns are those of docs/defenses.md. Made by `python -m benchmarks.suite others`.
"""


def again_table(rows: Sequence[Row]) -> str:
    """Markdown: the same lines of rows that were run again on other seeds."""
    return _plain(AGAIN, rows)


def others_table(rows: Sequence[Row]) -> str:
    """Markdown: the same lines of attackers that are nobody's breakers."""
    return _plain(OTHERS, rows)


def _plain(intro: str, rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row["adaptive"] is not None or row["static"] is not None]
    pairs = [row["pairs"] for row in measured]
    told = intro.format(min(pairs, default=0), max(pairs, default=0)).strip()
    return "\n".join([told, "", *_table(measured), *_refused(rows, measured)]) + "\n"


def defense_table(rows: Sequence[Row]) -> str:
    """Markdown: leakage to attackers who know the defense beside leakage to those who do not."""
    measured = [row for row in rows if row["adaptive"] is not None or row["static"] is not None]
    gaps = [row for row in rows if row["gap_at_least"] is not None]
    parted = sum(len({row["accuracy"] for row in own} - {None}) > 1 for own in _together(measured))
    lines = [
        "# Every defense against its breakers",
        "",
        *_headline(gaps),
        *_headline_of_the_strongest(measured),
        INTRODUCTION,
        *([PARTED.format(parted).lstrip()] if parted else []),
        STRONGEST.strip(),
        "",
        *_strongest(measured),
        "",
        "## Every breaker",
        "",
        *_table(measured),
        *_refused(rows, measured),
    ]
    return "\n".join(lines) + "\n"


def _table(measured: Sequence[Row]) -> list[str]:
    """A line a row, and what is said of all of them."""
    gaps = [row for row in measured if row["gap_at_least"] is not None]
    kept = f"Limits of at least {LOSS}: {sum(not _lost(row) for row in gaps)} of {len(gaps)}."
    old = "\\* of an earlier version of the attack or of the defense: to be run again."
    stale = ["", old] if any(changed(row["versions"]) for row in measured) else []
    bare = [row for row in measured if row["defense"].startswith("none") and row["adaptive"] is not None]
    undefended = {_alike(row): row["adaptive"] for row in bare}
    idle = [undefended.get(_alike(row), 1.0) < LITTLE for row in measured]
    lines = [_line(row, idle=own) for row, own in zip(measured, idle, strict=True)]
    says = f"† This attack leaks less than {LITTLE} where nothing defends: its row says nothing for the defense."
    return [line(HEADER), "|" + "---|" * len(HEADER), *lines, "", kept, *(["", says] if any(idle) else []), *stale]


def _alike(row: Row) -> tuple[str, ...]:
    """What a row and its undefended control share: the attack, whatever its settings, the goal and the deployment."""
    return row["attack"].split("(")[0], row["goal"], _place(row), str("head frozen" in row["defense"])


def _line(row: Row, *, idle: bool) -> str:
    attack = row["attack"] + (" †" if idle else "") + (" *" if changed(row["versions"]) else "")
    leaks = [number(row[kind]) + (" weak" if _of(row, kind, "weak") else "") for kind in KINDS]
    gap = [number(row["gap"]), number(row["gap_at_least"]) + (" !" if _lost(row) else "")]
    return line([*_deployment(row), attack, row["goal"], *leaks, *gap, _limit(row), _steps(row)])


def _lost(row: Row) -> bool:
    return row["gap_at_least"] is not None and row["gap_at_least"] < LOSS


def _of(row: Row, kind: str, what: str) -> float | None:
    """What stands beside the leakage of one kind; None where it was not run."""
    value: float | None = row["beside"].get(kind, {}).get(what)
    return value


def _limit(row: Row) -> str:
    """``"named 0.151 of at most 0.192"``, ``"mse 0.061, unbiased 0.024"``, both of images, or nothing."""
    kind, told = KINDS[row["adaptive"] is None], []
    named, mse = _of(row, kind, "named"), _of(row, kind, "mse")
    if row["bound"] is not None and named is not None:
        told.append(f"named {number(named)} of at most {number(row['bound'])}")
    if row["dfil_mse"] is not None and mse is not None:
        told.append(f"mse {number(mse)}, unbiased {number(row['dfil_mse'])}")
    return "; ".join(told)


def _steps(row: Row) -> str:
    """Those of the adaptive attacker, and of the other where they differ."""
    first, second = ("" if (spent := _of(row, kind, "steps")) is None else f"{spent:,.0f}" for kind in KINDS)
    return first if second in ("", first) else f"{first} ({second})".strip()


def _strongest(rows: Sequence[Row]) -> list[str]:
    """A line a deployment and goal."""
    header = (*HEADER[:5], "after", "strongest adaptive", "strongest static")
    groups = _together(rows, "goal")
    told = [[*_deployment(own[0]), own[0]["goal"], *(_by(own, kind) for kind in KINDS)] for own in groups]
    return [line(header), "|" + "---|" * len(header), *map(line, told)]


def _by(rows: Sequence[Row], kind: str) -> str:
    """``"0.832 by white-box-inversion"``; empty where no attack was run so."""
    best = _largest(rows, kind)
    if best is None:
        return ""
    return f"{number(_told(best, kind))} by {best['attack']}{', weak' if _of(best, kind, 'weak') else ''}"


def _together(rows: Sequence[Row], *more: str) -> list[list[Row]]:
    """All rows of one deployment, which share its honest training; and with the same of ``more``."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["defense"], _place(row), *(row[name] for name in more)), []).append(row)
    return list(groups.values())


def _largest(rows: Sequence[Row], kind: str) -> Row | None:
    """The row of the strongest attack, adaptive or static; None where none was run so."""
    run = [row for row in rows if row[kind] is not None]
    halves = [half for row in run if (half := _of(row, kind, "choose")) is not None]
    by = halves if len(halves) == len(run) else [row[kind] for row in run]
    return run[by.index(max(by))] if run else None


def _told(row: Row, kind: str) -> float:
    """Of the half that had no say in the choice, or where there are no halves of all victims."""
    value: float = row[kind] if (other := _of(row, kind, "report")) is None else other
    return value


def _deployment(row: Row) -> list[str]:
    """The first five fields of a line."""
    drop = row["accuracy_drop"]
    accuracy = number(row["accuracy"]) + ("" if drop is None else f" ({-drop:+.3f})")
    accuracy += ", unusable" if row["usable"] is False else ""
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


def _headline(gaps: Sequence[Row]) -> Iterator[str]:
    """Where knowing the defense pays most: the five widest gaps that are clear of zero."""
    clear = [row for row in gaps if row["gap_at_least"] > 0]
    if not clear:
        yield "In no row does an attacker who knows the defense gain clearly."
        return
    told = [
        f"{row['attack']} on {row['defense']}, {number(row['static'])} to {number(row['adaptive'])}"
        for row in sorted(clear, key=lambda row: -row["gap"])[:5]
    ]
    gains = f"In {len(clear)} of {len(gaps)} rows an attacker who knows the defense gains clearly"
    yield f"**{gains}; most in** {'; '.join(told)}."


def _headline_of_the_strongest(rows: Sequence[Row]) -> Iterator[str]:
    """By how much an evaluation without adaptive attackers would have been wrong: the five widest."""
    found = []
    for own in _together(rows, "goal"):
        knows, does_not = (_largest(own, kind) for kind in KINDS)
        if knows is not None and does_not is not None:
            reached, shown = _told(knows, "adaptive"), _told(does_not, "static")
            found.append(
                (reached - shown, f"{knows['goal']} on {knows['defense']}, {number(shown)} to {number(reached)}")
            )
    if found:
        told = [text for _, text in sorted(found, key=lambda one: -one[0])[:5]]
        yield f"\n**Of the strongest breakers of each kind, most in** {'; '.join(told)}."
