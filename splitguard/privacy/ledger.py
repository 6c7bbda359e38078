# SPDX-License-Identifier: Apache-2.0
"""Counts how often each row was sent, and refuses a release that its guarantee does not account for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from splitguard.errors import BadSetting, ReleaseRefused, near_miss

__all__ = ["Ledger"]

_COLUMNS = {"training": 0, "evaluation": 1, "query": 2}
_NAMES = ("in training", "in evaluations", "in queries", "in all")
_UNLIMITED = torch.iinfo(torch.int64).max


class Ledger:
    """The number of releases of every row, by phase, against a plan.

    Phases are ``"training"``, ``"evaluation"`` and ``"query"``.

    Args:
        planned: T, the releases of one row that the noise was calibrated for: a whole number for all phases together,
            or one a phase, where a phase that is not named may send nothing. A row that turns up in several phases may
            be sent no more often in all than the largest of the numbers says, and one that is sent in training no more
            often in all than is planned there: what is said of training rows counts those.
        ids: (N,), int64, unique: rows known in advance. Optional; it saves making room for them as they turn up.

    Raises:
        BadSetting: for a plan or ids of another form.
    """

    def __init__(self, planned: Mapping[str, int] | int, *, ids: Tensor | None = None) -> None:
        if isinstance(planned, Mapping):
            limits = [0] * len(_COLUMNS)
            for phase, count in planned.items():
                limits[_column(phase)] = _whole(f"planned[{str(phase)!r}]", count)
            limits.append(max(limits))
        else:
            limits = [_UNLIMITED] * len(_COLUMNS) + [_whole("planned", planned)]
        self._limits = torch.tensor(limits)  # by phase, and in all
        self._ids = torch.empty(0, dtype=torch.int64)  # sorted
        self._counts = torch.zeros(0, len(_COLUMNS), dtype=torch.int64)
        if ids is not None:
            self._admit(torch.unique(_checked(ids)))

    def charge(self, ids: Tensor, phase: str) -> None:
        """Counts one release of each row, before it is sent: all of them, or none where one is refused.

        Args:
            ids: (N,), int64, in any order; a row that occurs twice is sent twice.
            phase: ``"training"``, ``"evaluation"`` or ``"query"``.

        Raises:
            ReleaseRefused: if a row would be sent more often than planned; then nothing is counted.
            BadSetting: for another phase, or ids of another form.
        """
        column = _column(phase)
        rows, times = torch.unique(_checked(ids), return_counts=True)
        place, known, after = self._find(rows)
        after[:, column] += times
        totals = torch.cat([after, after.sum(1, keepdim=True)], dim=1)
        limits = self._limits.repeat(len(rows), 1)
        limits[after[:, 0] > 0, -1] = min(self._limits[0], self._limits[-1])
        over = totals > limits
        if over.any():
            self._refuse(rows, totals, over, phase)
        if not known.all():
            self._admit(rows[~known])
            place = torch.searchsorted(self._ids, rows)
        self._counts[place] = after

    def count(self, ids: Tensor, phase: str | None = None) -> Tensor:
        """(N,), int64: how often each row was sent, in one phase or in all; 0 for a row that never was."""
        _, _, counts = self._find(_checked(ids))
        return counts.sum(1) if phase is None else counts[:, _column(phase)]

    def most(self, phase: str | None = None) -> int:
        """How often the row that was sent most was sent, in one phase or in all: the T reached so far."""
        counts = self._counts.sum(1) if phase is None else self._counts[:, _column(phase)]
        return int(counts.max()) if len(counts) else 0

    def state_dict(self) -> dict[str, Tensor]:
        """The counts and the plan as int64 tensors: ids (N,), counts (N, 3), limits (4,)."""
        return {"ids": self._ids.clone(), "counts": self._counts.clone(), "limits": self._limits.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; what was counted here before is replaced.

        Raises:
            BadSetting: if the state was saved under another plan: its noise was calibrated for that one.
        """
        if not torch.equal(state["limits"], self._limits):
            raise BadSetting(
                f"the saved ledger was planned for {_plan(state['limits'])}, this one for {_plan(self._limits)}. "
                "Resume with the settings the session was started with, or start a new session"
            )
        self._ids, self._counts = state["ids"].clone(), state["counts"].clone()

    def _find(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row: its place, whether it has one (else the place is moot), and a copy of its counts (N, 3)."""
        if not len(self._ids):
            return (
                torch.zeros_like(rows),
                torch.zeros_like(rows, dtype=torch.bool),
                rows.new_zeros(len(rows), len(_COLUMNS)),
            )
        place = torch.searchsorted(self._ids, rows).clamp_(max=len(self._ids) - 1)
        known = self._ids[place] == rows
        return place, known, self._counts[place] * known[:, None]

    def _admit(self, new: Tensor) -> None:
        """Makes room for sorted rows that have no place yet; a merge, as sorting anew costs ten times as much."""
        size = len(self._ids) + len(new)
        place = torch.searchsorted(self._ids, new) + torch.arange(len(new))
        old = torch.ones(size, dtype=torch.bool)
        old[place] = False
        ids, counts = torch.empty(size, dtype=torch.int64), torch.zeros(size, len(_COLUMNS), dtype=torch.int64)
        ids[old], ids[place], counts[old] = self._ids, new, self._counts
        self._ids, self._counts = ids, counts

    def _refuse(self, rows: Tensor, totals: Tensor, over: Tensor, phase: str) -> NoReturn:
        bad = over.any(1)
        shown = ", ".join(str(i) for i in rows[bad][:3].tolist())
        most = int(totals[over].max())
        raise ReleaseRefused(
            f"{int(bad.sum())} of {len(rows)} rows would be sent more often than planned, in phase {str(phase)!r}: "
            f"planned {_plan(self._limits)}, got number {most} (ids {shown}{', ...' if bad.sum() > 3 else ''}). "
            "A row sent in training counts there with all its releases. Nothing was counted, and nothing may be sent. "
            "Send less (epochs, evaluations, queries), or plan more releases and calibrate the noise anew"
        )


def _column(phase: str) -> int:
    if phase not in _COLUMNS:
        raise BadSetting(near_miss(str(phase), _COLUMNS, what="phase"))
    return _COLUMNS[phase]


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadSetting(f"{name} must be a whole number of releases, at least 0; got {value!r}")
    return value


def _checked(ids: Tensor) -> Tensor:
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise BadSetting(f"ids must be an int64 tensor of shape (N,); got {got}")
    return ids.detach().cpu()


def _plan(limits: Tensor) -> str:
    return ", ".join(f"{n} {name}" for n, name in zip(limits.tolist(), _NAMES, strict=True) if n != _UNLIMITED)
