# SPDX-License-Identifier: Apache-2.0
"""What a run shows while it goes: two bars with rate and time left, and a line for each thing that broke."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from splitguard.matrix.work import Done

__all__ = ["Display"]


class _Rate(ProgressColumn):
    """How many a minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * 60:.1f}/min", style="progress.data.speed")


class Display:
    """Bars for trainings and attacks.

    Args:
        shown: False shows nothing.
        trainings: how many there are.
        attacks: how many there are.
    """

    def __init__(self, shown: bool, trainings: int, attacks: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._trainings = self._progress.add_task("trainings", total=trainings)
        self._attacks = self._progress.add_task("attacks", total=attacks, start=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def trained(self, done: Done) -> None:
        """A training is over."""
        self._report("training", done)
        self._progress.advance(self._trainings)

    def begin_attacks(self) -> None:
        """The clock of the attacks starts."""
        self._progress.start_task(self._attacks)

    def attacked(self, done: Done) -> None:
        """An attack is over."""
        self._report("attack", done)
        self._progress.advance(self._attacks)

    def _report(self, what: str, done: Done) -> None:
        if done.trouble is not None and not self._progress.disable:
            word = "refused" if done.trouble.refused else "failed"
            self._progress.console.print(
                f"{what} {done.label} {word}: {done.trouble.reason}", highlight=False, markup=False
            )
