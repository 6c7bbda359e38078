# SPDX-License-Identifier: Apache-2.0
"""A progress bar for one training: rounds, loss, rate and time to go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from splitguard.engine.loop import Progress

__all__ = ["bar"]


@contextmanager
def bar(title: str, *, shown: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for `train` that draws a bar while the block runs; None if it is not to be shown."""
    if not shown:
        yield None
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:.1f} rounds/s, to go"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns) as display:
        task = display.add_task(title, total=None, loss=float("nan"), rate=0.0)

        def report(where: Progress) -> None:
            display.update(task, total=where.total, completed=where.done, loss=where.loss, rate=where.rate)

        yield report
