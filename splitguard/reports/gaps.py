# SPDX-License-Identifier: Apache-2.0
"""What the numbers do not say: refused, failed, weak, unusable, incomplete and not evaluated, each with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.reports.facts import Deployment, weak
from splitguard.reports.words import decimal, numbers, percent

__all__ = ["Gap", "Group", "gaps"]

#: The reason and a detail, for a record that belongs to a group; else None.
Why = Callable[[Record], tuple[str, str] | None]


@dataclass(frozen=True)
class Gap:
    """What shares one reason.

    Attributes:
        what: attacks, a deployment or a goal.
        reason: why.
        where: numbers of the deployments.
        count: how many records; None where deployments are counted.
        detail: the end of a traceback.
    """

    what: str
    reason: str
    where: str
    count: int | None
    detail: str = ""


@dataclass(frozen=True)
class Group:
    """Gaps of one kind.

    Attributes:
        title: the kind.
        meaning: what it means for a reader, in a sentence.
        gaps: of that kind, the most frequent first.
        total: how many records, deployments, or pairs of deployment and goal.
    """

    title: str
    meaning: str
    gaps: tuple[Gap, ...]
    total: int

    @property
    def counted(self) -> bool:
        """Whether its gaps count records."""
        return all(gap.count is not None for gap in self.gaps)


def gaps(everyone: Sequence[Deployment]) -> list[Group]:
    """All kinds that occur."""
    found = [
        _records("Failed", "The attack or its training broke; the next run tries again.", everyone, _failed),
        _records("Weak", "The attack's own loss is lower at the truth than at its guess (ratio below 0.9): it did not "
                 "optimise well enough, and its low leakage supports no claim of privacy.", everyone, _weak),
        _records("Not converged", "The attack was still gaining when its steps ended; more may leak with more steps.",
                 everyone, _restless),
        _unusable(everyone),
        _not_evaluated(everyone),
        _records("Refused", "The combination makes no sense or lies outside the adversary considered. Refusals are no "
                 "evidence of privacy.", everyone, _refused),
        _records("Incomplete", "Finished, but a metric could not be computed; it is missing, not 0.", everyone,
                 _incomplete),
        _not_run(everyone),
    ]  # fmt: skip
    return [group for group in found if group.gaps]


def _failed(record: Record) -> tuple[str, str] | None:
    if record.status != "failed":
        return None
    return str(record.reason), str(record.extra.get("traceback") or "")


def _refused(record: Record) -> tuple[str, str] | None:
    return (str(record.reason), "") if record.status == "refused" else None


def _weak(record: Record) -> tuple[str, str] | None:
    if record.status != "ok" or not weak(record):
        return None
    ratio = record.values.get("loss_ratio")
    return f"loss at the truth / loss at the guess = {decimal(None if ratio is None else float(ratio))}", ""


def _restless(record: Record) -> tuple[str, str] | None:
    if record.status != "ok" or record.values.get("converged") is not False:
        return None
    return "the last fifth of its steps still gained 1 % or more", ""


def _incomplete(record: Record) -> tuple[str, str] | None:
    if record.status != "ok" or record.cell.goal != Goal.INPUTS or record.values.get("lpips") is not None:
        return None
    return "LPIPS is missing, so victims were re-identified by pixels only; splitguard doctor says how to get it", ""


def _records(title: str, meaning: str, everyone: Sequence[Deployment], why: Why) -> Group:
    """Records for which ``why`` has a reason, one gap a reason."""
    groups: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for deployment in everyone:
        for record in deployment.records:
            found = why(record)
            if found is not None:
                groups[found[0]].append((deployment.attack_of(record), deployment.number, found[1]))
    out = [
        Gap(
            what=", ".join(dict.fromkeys(attack for attack, _, _ in members)),
            reason=reason,
            where=numbers(number for _, number, _ in members),
            count=len(members),
            detail=next((detail for _, _, detail in members if detail), ""),
        )
        for reason, members in groups.items()
    ]
    out.sort(key=lambda gap: -(gap.count or 0))
    return Group(title, meaning, tuple(out), sum(gap.count or 0 for gap in out))


def _unusable(everyone: Sequence[Deployment]) -> Group:
    found = [d for d in everyone if d.usable is False]
    out = tuple(Gap(d.name, f"accuracy {percent(d.accuracy)}{_chance(d)}", f"#{d.number}", None) for d in found)
    meaning = "Accuracy below chance + 5 points: whatever it protects, nobody would deploy it. Outlined in the charts."
    return Group("Unusable", meaning, out, len(out))


def _chance(deployment: Deployment) -> str:
    chance = deployment.honest.extra.get("chance") if deployment.honest else None
    return "" if chance is None else f", chance {percent(float(chance))}"


_PLURAL = {Goal.ATTRIBUTE: "attributes", Goal.FUNCTIONALITY: "the network's function"}


def _not_evaluated(everyone: Sequence[Deployment]) -> Group:
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for deployment, goal in _unknown(everyone):
        groups[_PLURAL.get(goal, goal.value), deployment.why_not(goal)].append(deployment.number)
    out = tuple(Gap(f"leakage of {what}", why, numbers(where), None) for (what, why), where in groups.items())
    meaning = "No finished attack after this goal, so nothing is known; that is not a leakage of 0."
    return Group("Not evaluated", meaning, out, sum(map(len, groups.values())))


def _unknown(everyone: Sequence[Deployment]) -> Iterator[tuple[Deployment, Goal]]:
    for goal, column in ((Goal.INPUTS, "worst_input"), (Goal.LABELS, "worst_label")):
        yield from ((d, goal) for d in everyone if d.worst(column) is None)
    for goal in (Goal.ATTRIBUTE, Goal.MEMBERSHIP, Goal.FUNCTIONALITY):  # only where somebody asked
        if any(d.asks(goal) for d in everyone):
            yield from ((d, goal) for d in everyone if not d.finished(goal))


def _not_run(everyone: Sequence[Deployment]) -> Group:
    found = [(d, cell) for d in everyone for cell, _ in d.missing]
    meaning = "The run was stopped or limited; running the same command again goes on."
    attacks = ", ".join(dict.fromkeys(d.attacks.get(str(cell.attack), str(cell.attack)) for d, cell in found))
    gap = Gap(attacks, "no record yet", numbers(d.number for d, _ in found), len(found))
    return Group("Not run yet", meaning, (gap,) if found else (), len(found))
