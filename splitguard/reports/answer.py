# SPDX-License-Identifier: Apache-2.0
"""The answer in words: which defended deployment leaks clearly less and is usable, at what cost; or that none is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.metrics.stats import Difference, paired_difference
from splitguard.reports.facts import Deployment, Worst
from splitguard.reports.words import bracket, decimal, joined, numbers, percent, plural, points

__all__ = ["Answer", "Comparison", "answer", "compare"]


@dataclass(frozen=True)
class Comparison:
    """The worst leakage of inputs of a deployment, against its undefended twin.

    Attributes:
        deployment, twin: which.
        worst, before: what leaks, with and without the defense.
        at_least: how much less it leaks at 95 % confidence, one-sided and paired over seeds; None with one seed.
        clear: it leaks less with that confidence; with one seed, the two intervals over victims do not touch.
    """

    deployment: Deployment
    twin: Deployment
    worst: Worst
    before: Worst
    at_least: float | None
    clear: bool


@dataclass(frozen=True)
class Answer:
    """The paragraph at the top of the page.

    Attributes:
        headline: a sentence.
        text: the sentences after it.
        best: the deployment it recommends; None if there is none.
    """

    headline: str
    text: tuple[str, ...]
    best: Deployment | None


def answer(everyone: Sequence[Deployment]) -> Answer:
    """What the numbers say, with the reservations that belong to them."""
    defended = [d for d in everyone if d.defended and d.split]
    if not any(d.worst("worst_input") for d in everyone):
        return Answer("No attack on inputs has finished, so nothing is known about what leaks.", (), None)
    if not defended:
        return Answer("No deployment of this matrix is defended.", (_undefended(everyone),), None)
    usable = [c for d in defended if d.usable and (c := compare(d, everyone)) is not None]
    clear = [c for c in usable if c.clear and c.worst.supported]
    if not clear:
        return Answer(
            "No defended deployment is usable and leaks clearly less of its inputs than the same network undefended.",
            (_why_none(defended, usable), _undefended(everyone)),
            None,
        )
    best = _most_accurate_of_the_least(clear)
    d = best.deployment
    return Answer(
        f"Deployment #{d.number} ({d.name}) is the most accurate of the defended deployments whose inputs leak least, "
        "and its inputs leak clearly less than those of the same network undefended.",
        (_less(best), _cost(d), _labels(d), *_rivals(best, everyone)),
        d,
    )


def _most_accurate_of_the_least(clear: Sequence[Comparison]) -> Comparison:
    """Of those whose interval reaches down to that of the least leakage, and so cannot be told from it."""
    least = min(clear, key=lambda c: c.worst.value)
    reach = least.worst.value if least.worst.high is None else least.worst.high
    alike = [c for c in clear if (c.worst.value if c.worst.low is None else c.worst.low) <= reach]
    return max(alike, key=lambda c: (c.deployment.accuracy or 0, -c.worst.value))


def compare(deployment: Deployment, everyone: Sequence[Deployment]) -> Comparison | None:
    """A deployment against its undefended twin; None unless both were evaluated."""
    twin = next((d for d in everyone if d.key == deployment.twin), None)
    worst, before = deployment.worst("worst_input"), twin.worst("worst_input") if twin else None
    if twin is None or worst is None or before is None:
        return None
    paired = _paired(_by_seed(twin, before), _by_seed(deployment, worst))
    if paired is not None and paired.at_least is not None:
        return Comparison(deployment, twin, worst, before, paired.at_least, clear=paired.at_least > 0)
    apart = worst.high is not None and before.low is not None and worst.high < before.low
    return Comparison(deployment, twin, worst, before, None, clear=apart)


def _by_seed(deployment: Deployment, worst: Worst) -> dict[int, float]:
    """Leakage by the worst attack on the reporting half of the victims, which are the same in both deployments."""
    out = {}
    for record in deployment.finished(Goal.INPUTS):
        value = _reported(record)
        if value is not None and deployment.attack_of(record) == worst.attack and record.phase == worst.phase:
            out[record.cell.seed] = value
    return out


def _reported(record: Record) -> float | None:
    half = record.extra.get("halves", {}).get("leakage") or {}
    value = half.get("report")
    return None if value is None else float(value)


def _paired(before: dict[int, float], after: dict[int, float]) -> Difference | None:
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    return paired_difference([before[s] for s in seeds], [after[s] for s in seeds])


def _less(best: Comparison) -> str:
    worst, before, twin = best.worst, best.before, best.twin
    margin = (
        "the two intervals over victims, one seed, do not touch"
        if best.at_least is None
        else f"paired over {plural(min(worst.seeds, before.seeds), 'seed')}, at least {decimal(best.at_least)} less"
    )
    reid = best.deployment.worst("worst_reid")
    found = f" Its victims are re-identified in {percent(reid.value)} of cases." if reid else ""
    return (
        f"The worst finished attack, {worst.attack}, reaches a leakage of {_with(worst)} on its inputs, against "
        f"{_with(before)} undefended (#{twin.number}); {margin}.{found}"
    )


def _cost(d: Deployment) -> str:
    drop = d.number_of("accuracy_drop")
    if drop is None:
        return f"Its test accuracy is {percent(d.accuracy)}; what that costs against its undefended twin is not known."
    price = f"{points(drop)} points of test accuracy" if drop > 0 else "no accuracy here"
    return f"That costs {price}: {percent(d.accuracy)}, against {percent((d.accuracy or 0) + drop)} undefended."


def _labels(d: Deployment) -> str:
    worst = d.worst("worst_label")
    if worst is not None:
        return f"Of its labels, {worst.attack} recovers a leakage of {_with(worst)}."
    why = d.why_not(Goal.LABELS)
    if why == "labels are sent":
        return "Its labels are not protected: the clients send them."
    return f"What its labels leak was not evaluated ({why})."


def _rivals(best: Comparison, everyone: Sequence[Deployment]) -> list[str]:
    """Usable deployments that leak less still, but cannot be recommended for a reason that must be named."""
    lower = [
        d for d in everyone
        if d.usable and d is not best.deployment and (w := d.worst("worst_input")) and w.value < best.worst.value
    ]  # fmt: skip
    plain = [d for d in lower if not d.defended]
    said = []
    if plain:
        least = min(plain, key=lambda d: d.number_of("worst_input") or 0)
        worst = least.worst("worst_input")
        said.append(
            f"Without any defense, #{least.number} ({least.name}) measures {_with(worst) if worst else ''} at "
            f"{percent(least.accuracy)}."
        )
    others = [d for d in lower if d.defended]
    if others:
        leak = "measures" if len(others) == 1 else "measure"
        said.append(
            f"{numbers(d.number for d in others)} {leak} less, but no less than the intervals allow for at a lower "
            "accuracy, by a weak attack, or without a clear difference from an undefended twin."
        )
    return said


def _why_none(defended: Sequence[Deployment], usable: Sequence[Comparison]) -> str:
    unknown = [d for d in defended if d.worst("worst_input") is None]
    unusable = [d for d in defended if d not in unknown and d.usable is False]
    unclear = [c.deployment for c in usable if not c.clear]
    weak = [c.deployment for c in usable if c.clear and not c.worst.supported]
    rest = [d for d in defended if d not in (*unknown, *unusable, *unclear, *weak)]
    kinds = [
        (unusable, "unusable"),
        (unclear, "not clearly less leaky"),
        (weak, "attacked too weakly to say"),
        (unknown, "not evaluated"),
        (rest, "without an undefended twin to compare with"),
    ]
    parts = [f"{len(found)} {what} ({numbers(d.number for d in found)})" for found, what in kinds if found]
    return f"Of {plural(len(defended), 'defended deployment')}: {joined(parts)}."


def _undefended(everyone: Sequence[Deployment]) -> str:
    """The range that the choice of a cut alone gives."""
    plain = [d for d in everyone if not d.defended and d.usable and d.worst("worst_input")]
    if not plain:
        return "No usable undefended deployment was evaluated."
    ranked = sorted(plain, key=lambda d: d.number_of("worst_input") or 0)
    least, most = ranked[0], ranked[-1]

    def said(d: Deployment) -> str:
        worst = d.worst("worst_input")
        return f"#{d.number} ({d.name}) leaks {_with(worst) if worst else ''} at {percent(d.accuracy)}"

    if least is most:
        return f"Undefended, {said(least)}."
    return f"Undefended, {said(least)}, the least; {said(most)}, the most."


def _with(worst: Worst) -> str:
    least = "" if worst.supported else "at least "
    return f"{least}{decimal(worst.value)} {bracket(worst.low, worst.high)}".rstrip()
