# SPDX-License-Identifier: Apache-2.0
"""What a detector made of a session, as columns of its records, and of all sessions of one deployment."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitguard.engine.schedule import sendings
from splitguard.metrics.detection import first_alarm, rows_sent_before

if TYPE_CHECKING:
    from splitguard.engine.session import Session
    from splitguard.matrix.record import Record

__all__ = ["SUMMED_ALARMS", "Watch", "alarm_columns", "summed_alarms", "watched"]

#: Columns of summary.csv: of the sessions with an attack in a seat, how many raised the alarm, and the medians over
#: those; of the honest ones, how many did so wrongly.
SUMMED_ALARMS = (
    "alarms_attacked", "alarms_true", "alarms_true_step", "alarms_true_rows", "alarms_honest", "alarms_false",
)  # fmt: skip


@dataclass(frozen=True)
class Watch:
    """What the detector of one deployment made of the sessions with one server.

    Attributes:
        attack: the attack in a seat of these sessions, settings included; None for honest ones.
        sessions: how many, one a seed.
        judged: of how many the detector judged at least once.
        steps: of the first alarm in each session that raised one, sorted.
        rows: different training rows that had been sent by then, sorted.
        stopped: how many sessions an alarm ended.
    """

    attack: str | None
    sessions: int
    judged: int
    steps: tuple[int, ...]
    rows: tuple[int, ...]
    stopped: int

    @property
    def raised(self) -> int:
        """How many sessions raised the alarm."""
        return len(self.steps)


def alarm_columns(session: Session) -> dict[str, Any]:
    """The columns of a session whose defense can raise an alarm; nothing of any other.

    ``alarm_judgements``: how often it judged; ``alarm_raised``; ``alarm_step`` of the first alarm, from 0, and
    ``alarm_rows``, the different training rows that had been sent by the end of that step, both missing without one;
    ``alarm_stopped``: an alarm ended the session.
    """
    if not session.defense.overrides("alarm"):
        return {}
    step = first_alarm([(step, alarm.score) for step, alarm in session.alarms])
    return {
        "alarm_judgements": len(session.alarms),
        "alarm_raised": step is not None,
        "alarm_step": step,
        "alarm_rows": None if step is None else rows_sent_before(sendings(session), step),
        "alarm_stopped": any(alarm.stop for _, alarm in session.alarms),
    }


def watched(records: Iterable[Record]) -> list[Watch]:
    """The sessions of one deployment by server, honest ones first.

    Args:
        records: those of one session repeat its columns, and those without a detector are passed over.
    """
    found: dict[str | None, dict[int, Mapping[str, Any]]] = {}
    for record in (one for r in records for one in (r, r.honest()) if one is not None):
        attack = str(record.cell.attack) if record.cell.active else None
        if record.values.get("alarm_raised") is not None:
            found.setdefault(attack, {})[record.cell.seed] = record.values
    return [_watch(attack, list(found[attack].values())) for attack in sorted(found, key=lambda a: (a is not None, a))]


def _watch(attack: str | None, sessions: Sequence[Mapping[str, Any]]) -> Watch:
    raised = [columns for columns in sessions if columns["alarm_raised"]]
    return Watch(
        attack=attack,
        sessions=len(sessions),
        judged=sum(bool(columns["alarm_judgements"]) for columns in sessions),
        steps=tuple(sorted(int(columns["alarm_step"]) for columns in raised)),
        rows=tuple(sorted(int(columns["alarm_rows"]) for columns in raised)),
        stopped=sum(bool(columns["alarm_stopped"]) for columns in sessions),
    )


def summed_alarms(watches: Sequence[Watch]) -> dict[str, Any]:
    """The columns `SUMMED_ALARMS`; those of a kind of session that there is none of are missing."""
    attacked, honest = ([w for w in watches if (w.attack is not None) is active] for active in (True, False))
    out: dict[str, Any] = dict.fromkeys(SUMMED_ALARMS)
    if attacked:
        steps, rows = [s for w in attacked for s in w.steps], [r for w in attacked for r in w.rows]
        out |= {"alarms_attacked": sum(w.sessions for w in attacked), "alarms_true": len(steps)}
        out |= (
            {"alarms_true_step": statistics.median(steps), "alarms_true_rows": statistics.median(rows)} if steps else {}
        )
    if honest:
        out |= {"alarms_honest": sum(w.sessions for w in honest), "alarms_false": sum(w.raised for w in honest)}
    return out
