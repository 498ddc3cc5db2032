r"""What the two experiments on tables of scikit-learn share: data, splits, statistics of splits.

Every split draws test points anew from the same few hundred. Training sets of two splits share most
of their points, so that the values of a metric over splits are correlated: intervals are the
corrected ones of Nadeau & Bengio 2003 (:func:`probml_tp.metrics.over_runs.resampled_interval`), of
means and of paired differences alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from probml_tp.guides.recipes import FitSettings, fit_one
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.harness.experiment import Results, Update, no_update
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.kit.common import Array, Intervals, Rows, derived_seed, labels_of
from probml_tp.kit.comparisons import Ends
from probml_tp.metrics.over_runs import resampled_interval
from probml_tp.model import BayesianModel
from probml_tp.plots.style import GuideStyle, guide_style
from probml_tp.posterior import Posterior

TABLES: Mapping[str, tuple[Callable[..., Any], str]] = {
    "diabetes": (datasets.load_diabetes, "diabetes"),
    "breast-cancer": (datasets.load_breast_cancer, "breast cancer"),
    "wine": (datasets.load_wine, "wine"),
    "digits": (datasets.load_digits, "digits 8×8"),
}
"""Name to what loads the table, without a network, and what to call it."""

FIRST, OTHERS, RECORDS = "first split", "other splits", "records for ArviZ"
"""The stages of both."""

LIBRARY = "scikit-learn"
LIBRARY_STYLE = GuideStyle(LIBRARY, "#7f7f7f", "-", "s")

SPLIT_WORDS = (
    "Splits of one data set overlap and are not independent: the intervals are t intervals with "
    "the corrected variance of Nadeau and Bengio (2003), which more splits do not shrink to nothing"
)

PredictiveT = TypeVar("PredictiveT")

Run = Callable[[int], Rows]
"""Fits and judges everything on the split of an index: row to metric to value."""


@dataclass(frozen=True, kw_only=True)
class TabularConfig(ExperimentConfig):
    """Options that both experiments have."""

    test_share: float = option(0.2, "Share of the points to test on.", minimum=0.05, maximum=0.9)
    draws: int = option(
        100, "Posterior draws in predictions and ArviZ records.", full=500, minimum=10
    )
    dropout: float = option(0.1, "Drop rate of the hidden units.", minimum=0.001, maximum=0.9)
    rank: int = option(5, "Columns of the low-rank normal's factor.", minimum=0)
    jobs: int | None = option(
        None, "Processes that run splits; none for one a core.", quick=1, minimum=1
    )


@dataclass(frozen=True)
class Split:
    """Training and test points, standardised by the training points.

    Args:
        train: inputs ``(N, d)`` and targets ``(N,)`` in float64, or labels.
        test: likewise.
        y_mean: what was subtracted from real targets; 0 for labels.
        y_scale: what they were divided by, in the units of ``y``; 1 for labels.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    y_mean: float = 0.0
    y_scale: float = 1.0


def load_table(name: str) -> tuple[Array, Array]:
    """Inputs ``(N, d)`` and targets or labels ``(N,)`` of a table that ships with scikit-learn.

    Args:
        name: one of :data:`TABLES`.

    Returns:
        Inputs and targets.

    Example:
        >>> [part.shape for part in load_table("wine")]
        [(178, 13), (178,)]
    """
    x, y = TABLES[name][0](return_X_y=True)
    return np.asarray(x, dtype=np.float64), np.asarray(y)


def split_sizes(name: str, config: TabularConfig) -> dict[str, int]:
    """Training and test points of a split, as :func:`resampled_interval` takes them."""
    size = len(load_table(name)[0])
    test = int(np.ceil(config.test_share * size))
    return {"train_size": size - test, "test_size": test}


def make_split(name: str, index: int, config: TabularConfig) -> Split:
    """Split a table at random, labels in equal shares, and standardise it.

    Args:
        name: one of :data:`TABLES`.
        index: of the split.
        config: the options.

    Returns:
        The split: inputs and real targets have mean 0 and standard deviation 1 over the training
        points; inputs that are constant there become 0.
    """
    x, y = load_table(name)
    is_labels = y.dtype.kind in "iu"
    x_train, x_test, y_train, y_test = train_test_split(
        x,
        y,
        test_size=split_sizes(name, config)["test_size"],
        random_state=derived_seed(config.seed, f"split {name} {index}"),
        stratify=y if is_labels else None,
    )
    scaler = StandardScaler().fit(x_train)
    inputs = [torch.from_numpy(scaler.transform(part)) for part in (x_train, x_test)]
    mean, scale = (0.0, 1.0) if is_labels else (float(y_train.mean()), float(y_train.std()))
    targets = [
        torch.from_numpy(part if is_labels else (part - mean) / scale) for part in (y_train, y_test)
    ]
    return Split((inputs[0], targets[0]), (inputs[1], targets[1]), mean, scale)


def row_name(family: str, method: str) -> str:
    """The row of a guide of a model, or of a method of scikit-learn."""
    return f"{family} · {method}"


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


def families(rows: Iterable[str]) -> dict[str, GuideStyle]:
    """Label of each row to the style of its guide; methods of scikit-learn are grey.

    Example:
        >>> families(["mlp · map", "scikit-learn · ARDRegression"])["MLP, MAP"].label
        'MAP'
    """
    styles = {}
    for row in rows:
        family, method = row.split(" · ")
        styles[row_label(row)] = LIBRARY_STYLE if family == LIBRARY else guide_style(method)
    return styles


def panel_rows(metrics: Rows, intervals: Intervals, metric: str) -> dict[str, Ends]:
    """One metric for :func:`probml_tp.plots.robustness.interval_panels`: label to value and ends.

    Args:
        metrics: row to metric to value.
        intervals: row to metric to interval; NaN stands for one that is missing.
        metric: which.

    Returns:
        The rows that have it.
    """
    missing = (float("nan"), float("nan"))
    return {
        row_label(row): (one[metric], *intervals.get(row, {}).get(metric, missing))
        for row, one in metrics.items()
        if metric in one
    }


def fit_guides(
    family: str,
    model: BayesianModel,
    data: tuple[Tensor, Tensor],
    guides: Iterable[str],
    recipes: FitSettings,
) -> tuple[dict[str, Posterior], dict[str, float]]:
    """Fit guides by their recipes, each after the one that it starts from.

    Args:
        family: what rows call the model.
        model: the model.
        data: training inputs and targets.
        guides: which.
        recipes: how.

    Returns:
        Row to posterior, and to the seconds of its fit, what it started from included.
    """
    asked, done = list(guides), dict[str, Posterior]()
    for guide in recipes.order(asked):
        done[guide] = fit_one(guide, model, data, recipes, done=done, update=no_update)
    return (
        {row_name(family, guide): done[guide] for guide in asked},
        {row_name(family, guide): done[guide].info.total_seconds for guide in asked},
    )


def judge_rows(
    posteriors: Mapping[str, Posterior],
    seconds: Mapping[str, float],
    methods: Mapping[str, Callable[[], Any]],
    *,
    predict: Callable[[Posterior], PredictiveT],
    fit_and_predict: Callable[[Any], PredictiveT],
    scores: Callable[[PredictiveT], Mapping[str, float]],
) -> Rows:
    """Judge the posteriors of a split, with scikit-learn's methods beside them.

    Args:
        posteriors: by row.
        seconds: of their fits, by row.
        methods: name to what makes each method.
        predict: predicts at the test points by a posterior.
        fit_and_predict: fits a method and predicts there, which is timed.
        scores: judges a prediction there.

    Returns:
        Row to metric to value.
    """
    rows: Rows = {}
    for row, posterior in posteriors.items():
        rows[row] = {**scores(predict(posterior)), "seconds": seconds[row]}
    for name, make in methods.items():
        start = time.perf_counter()
        predictive = fit_and_predict(make())
        took = time.perf_counter() - start
        rows[row_name(LIBRARY, name)] = {**scores(predictive), "seconds": took}
    return rows


def keep_split(
    results: Results[Any], posteriors: Mapping[str, Posterior], split: Split, *, draws: int
) -> None:
    """Enter the posteriors of a split into the results, with their records at its training data."""
    for row, posterior in posteriors.items():
        key = row.replace(" · ", "-")
        results.posteriors[key] = posterior
        results.inference_data[key] = posterior.to_inference_data(*split.train, num_samples=draws)


# ----------------------------------------------------------------------------- over the splits


def run_splits(run: Run, indices: Sequence[int], *, jobs: int | None, update: Update) -> list[Rows]:
    """Run splits over processes, each on one thread.

    Args:
        run: fits and judges on one split; it can be pickled.
        indices: of the splits.
        jobs: processes; ``None`` for one a core.
        update: told of the progress.

    Returns:
        The rows of each split, in order.
    """
    if not indices:
        return []
    rows: list[Rows] = []

    def done(one: Rows) -> None:
        rows.append(one)
        update(len(rows), len(indices), f"split {len(rows)} of {len(indices)}")

    tasks = [partial(_on_one_thread, run, index) for index in indices]
    run_tasks(tasks, jobs=number_of_jobs(jobs, len(indices)), done=done, order="given")
    return rows


@single_thread()
def _on_one_thread(run: Run, index: int) -> Rows:
    return run(index)


def over_splits(runs: Sequence[Rows], sizes: Mapping[str, int]) -> tuple[Rows, Intervals]:
    """Average metrics over splits, with the corrected t intervals.

    Args:
        runs: of each split: row to metric to value.
        sizes: of :func:`split_sizes`.

    Returns:
        Row to metric to mean over the splits that have it, and to the ends of its interval, where
        there are at least two.
    """
    means: Rows = {}
    intervals: Intervals = {}
    for row in dict.fromkeys(name for run in runs for name in run):
        cells = [run[row] for run in runs if row in run]
        for metric in cells[0]:
            found = resampled_interval([cell[metric] for cell in cells], **sizes)
            means.setdefault(row, {})[metric] = found.mean
            if found.interval is not None and metric != "seconds":
                intervals.setdefault(row, {})[metric] = found.interval
    return means, intervals


def differences(
    runs: Sequence[Rows], reference: str, metrics: Iterable[str], sizes: Mapping[str, int]
) -> tuple[Rows, Intervals]:
    """Metrics less those of one row on the same splits, as :func:`over_splits` gives them.

    Args:
        runs: of each split: row to metric to value.
        reference: the row that is subtracted.
        metrics: which.
        sizes: of :func:`split_sizes`.

    Returns:
        Mean differences and their intervals, without the reference's own row.
    """
    names = list(metrics)
    paired = [
        {
            row: {m: values[m] - run[reference][m] for m in names}
            for row, values in run.items()
            if row != reference
        }
        for run in runs
    ]
    return over_splits(paired, sizes)
