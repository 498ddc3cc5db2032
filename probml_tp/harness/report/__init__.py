"""The report: one self-contained HTML page of the results on disk."""

from __future__ import annotations

from probml_tp.harness.report.build import REPORT, build_report
from probml_tp.harness.report.console import console_of, print_results, print_table
from probml_tp.harness.report.tables import MetricTable, metric_table

__all__ = [
    "REPORT",
    "MetricTable",
    "build_report",
    "console_of",
    "metric_table",
    "print_results",
    "print_table",
]
