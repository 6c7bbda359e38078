# SPDX-License-Identifier: Apache-2.0
"""What a run says to people: one self-contained page, tables, figures for notebooks. It reads records, runs nothing."""

from __future__ import annotations

from splitguard.reports.depth import plot_depth
from splitguard.reports.page import write_report
from splitguard.reports.pictures import gallery
from splitguard.reports.plots import plot_tradeoff
from splitguard.reports.tables import markdown, table

__all__ = ["gallery", "markdown", "plot_depth", "plot_tradeoff", "table", "write_report"]
