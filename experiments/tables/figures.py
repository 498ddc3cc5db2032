"""What the two tasks on tables draw and say alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from probml_tp.experiments.tables.kit import LIBRARY
from probml_tp.harness.experiment import Figure, Table
from probml_tp.kit.common import labels_of
from probml_tp.kit.comparisons import table_panels
from probml_tp.kit.sentences import Finding, Gap, Range
from probml_tp.plots.style import GuideStyle, guide_style

CAPTION = (
    "Means over random splits; bars: t intervals at 95 % with the variance corrected for the "
    "overlap of the splits. Grey: scikit-learn."
)


def row_label(row: str) -> str:
    """What findings and figures call a row, such as "MLP, linearised Laplace"."""
    family, method = row.split(" · ")
    if family == LIBRARY:
        return method
    return f"{family.upper() if family == 'mlp' else family}, {labels_of([method])}"


row_range = partial(Range, name=row_label)
"""Over which range rows spread."""


def row_style(row: str) -> GuideStyle:
    """The style of a row's guide, under the row's label; methods of scikit-learn are grey."""
    family, method = row.split(" · ")
    style = GuideStyle(LIBRARY, "#7f7f7f", "-", "s") if family == LIBRARY else guide_style(method)
    return replace(style, label=row_label(row))


def table_figure(
    name: str, title: str, caption: str, table: Table, headings: Mapping[str, str], **options: Any
) -> Figure:
    """Draw columns of a table, with :func:`~probml_tp.kit.comparisons.table_panels`' options."""
    made = table_panels(table, headings, style=row_style, **options)
    return Figure(name, title, f"{caption} {CAPTION}".strip(), made)


def difference_figure(name: str, title: str, table: Table, reference: str) -> Figure:
    """Draw the differences from a method of scikit-learn."""
    rival = row_label(reference)
    caption = f"Differences from {rival} on the same test points; left of 0 is better."
    zeros = dict.fromkeys(table.columns, 0.0)
    return table_figure(
        name, title, caption, table, table.columns, references=zeros, x=f"less {rival}"
    )


def against(reference: str, column: str, on: str) -> Gap:
    """Who has a lower or higher NLL than a method of scikit-learn beyond chance, on which data."""
    return Gap(
        column,
        f"NLL on {on} against {row_label(reference)} on the same splits, where the corrected "
        "interval of the difference excludes 0: better: {below}. Worse: {above}.",
        table=f"Less {LIBRARY}'s",
        name=row_label,
    )


def split_words(more: str = "") -> Finding:
    """What intervals over the splits are worth, with more said of how many splits there are."""
    return lambda results: (
        "Splits of one data set overlap and are not independent: the intervals are t intervals "
        "with the corrected variance of Nadeau and Bengio (2003), which more splits do not shrink "
        f"to nothing ({results.config.splits} splits{more})."
    )
