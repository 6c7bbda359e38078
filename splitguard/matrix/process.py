# SPDX-License-Identifier: Apache-2.0
"""How a worker process behaves: a fixed number of threads, errors as data, no life without its parent."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from splitguard.errors import MissingKnowledge, NotSupported, SplitguardError

__all__ = ["Trouble", "attempt", "numeric_threads", "stop_with_parent"]


@dataclass(frozen=True)
class Trouble:
    """Why something has no result.

    Attributes:
        reason: in a line.
        trace: where it broke.
        refused: it is not offered or not granted there, so that trying again cannot help.
    """

    reason: str
    trace: str
    refused: bool = False


def attempt(act: Callable[[], object]) -> Trouble | None:
    """Runs ``act``; what it raises comes back as data. The one place that catches every exception."""
    try:
        act()
    except (NotSupported, MissingKnowledge) as error:
        return Trouble(_line(error), traceback.format_exc(), refused=True)
    except Exception as error:
        return Trouble(_line(error), traceback.format_exc())
    return None


def _line(error: Exception) -> str:
    """The error in a line; its type too, unless the message was written for the user."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SplitguardError) and text else f"{type(error).__name__}: {text}"


@contextmanager
def numeric_threads(count: int) -> Iterator[None]:
    """A block in which torch and numpy use ``count`` threads; with another number sums round differently."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(limits=count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def stop_with_parent(parent: int) -> None:
    """In a worker process: leaves Ctrl-C to the run that started it, and ends when that one is gone.

    Args:
        parent: process id of the run; in that process itself nothing happens.
    """
    if parent and os.getpid() != parent:
        _watch(parent)


@functools.cache
def _watch(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)  # an orphan would go on writing beside the next run

    threading.Thread(target=watch, name="splitguard parent watch", daemon=True).start()
