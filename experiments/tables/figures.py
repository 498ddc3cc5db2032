"""What the two tasks on tables draw and say alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from probml_tp.experiments.tables.kit import LIBRARY
from probml_tp.harness.experiment import Figure, Table
from probml_tp.kit.common import labels_of
from probml_tp.kit.sentences import Finding, Gap, Range
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import GuideStyle, guide_style

CAPTION = (
    "Means over random splits; bars: t intervals at 95 % with the variance corrected for the "
    "overlap of the splits. Grey: scikit-learn."
)


def row_label(row: str) -> str:
    """What findings and figures call a row.

    Example:
        >>> row_label("mlp · laplace-linearized"), row_label("scikit-learn · ARDRegression")
        ('MLP, linearised Laplace', 'ARDRegression')
    """
    family, method = row.split(" · ")
    if family == LIBRARY:
        return method
    return f"{family.upper() if family == 'mlp' else family}, {labels_of([method])}"


row_range = partial(Range, name=row_label)
"""Over which range rows spread."""


def row_style(row: str) -> GuideStyle:
    """The style of a row's guide, under the row's label; methods of scikit-learn are grey.

    Example:
        >>> row_style("mlp · map").label, row_style("scikit-learn · ARDRegression").color
        ('MLP, MAP', '#7f7f7f')
    """
    family, method = row.split(" · ")
    style = GuideStyle(LIBRARY, "#7f7f7f", "-", "s") if family == LIBRARY else guide_style(method)
    return replace(style, label=row_label(row))


def table_figure(
    name: str,
    title: str,
    caption: str,
    table: Table,
    headings: Mapping[str, str],
    *,
    references: Mapping[str, float] | None = None,
    x: str = "",
) -> Figure:
    """Draw columns of a table side by side, a line a row.

    Args:
        name: of the figure.
        title: its sentence.
        caption: how to read it, besides what is the same of all.
        table: the numbers.
        headings: column to what stands above it.
        references: column to a value to mark.
        x: label of all x axes.

    Returns:
        The figure.
    """
    nothing = (float("nan"), float("nan"))
    panels, families = [], {row_label(row): row_style(row) for row in table.rows}
    for metric, heading in headings.items():
        ends = table.ends(metric)
        rows = {
            row_label(row): (value, *ends.get(row, nothing))
            for row, value in table.column(metric).items()
        }
        panels.append(Panel(heading, rows, reference=(references or {}).get(metric)))
    made = interval_panels(panels, families=families, x=x)
    made.legends.clear()
    return Figure(name, title, f"{caption} {CAPTION}".strip(), made)


def difference_figure(name: str, title: str, table: Table, reference: str) -> Figure:
    """Draw the differences from a method of scikit-learn, a row of :func:`table_figure` each."""
    rival = row_label(reference)
    caption = f"Differences from {rival} on the same test points; left of 0 is better."
    zeros = dict.fromkeys(table.columns, 0.0)
    return table_figure(
        name, title, caption, table, table.columns, references=zeros, x=f"less {rival}"
    )


def against(reference: str, column: str, on: str) -> Gap:
    """Who has a lower or higher NLL than a method of scikit-learn beyond chance.

    Args:
        reference: the method's row.
        column: of the table of differences.
        on: what to call the data.

    Returns:
        The finding.
    """
    return Gap(
        column,
        f"NLL on {on} against {row_label(reference)} on the same splits, where the corrected "
        "interval of the difference excludes 0: better: {below}. Worse: {above}.",
        table=f"Less {LIBRARY}'s",
        name=row_label,
    )


def split_words(more: str = "") -> Finding:
    """What intervals over the splits are worth, with more said of how many splits there are."""
    words = (
        "Splits of one data set overlap and are not independent: the intervals are t intervals "
        "with the corrected variance of Nadeau and Bengio (2003), which more splits do not shrink "
        f"to nothing ({{config.splits}} splits{more})."
    )
    return lambda results: words.format(config=results.config)
