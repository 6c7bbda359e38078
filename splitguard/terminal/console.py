# SPDX-License-Identifier: Apache-2.0
"""Where commands print: names, paths and errors are shown as they are, whatever brackets they hold."""

from __future__ import annotations

from rich.console import Console

__all__ = ["plain_console"]


def plain_console() -> Console:
    """A console for which no text is markup, in lines and in the cells and titles of tables alike."""
    return Console(markup=False, emoji=False, highlight=False)
