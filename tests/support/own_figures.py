"""An experiment's own figures, less those of the diagnostics that every experiment has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from probml_tp.kit.posterior_checks import CHECK_FIGURES


def own_figures(figures: Iterable[Any]) -> list[Any]:
    """Those, drawn or saved, that are not diagnostics."""
    return [figure for figure in figures if figure.name not in CHECK_FIGURES]
