r"""Tables of scikit-learn, two tasks of one study: splits, fits, and statistics over the splits.

Every split draws test points anew from the same few hundred. Training sets of two splits share most
of their points, so that the values of a metric over splits are correlated: intervals are the
corrected ones of Nadeau & Bengio 2003 (:func:`probml_tp.metrics.over_runs.resampled_interval`), of
means and of paired differences alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from probml_tp.guides.recipes import RECIPES, FitSettings, fit_all
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.harness.experiment import Figure, Progress, Results, Table
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.kit.common import Array, derived_seed, labels_of
from probml_tp.kit.comparisons import table_panels
from probml_tp.kit.knobs import knob
from probml_tp.kit.sentences import Finding, Gap, Range
from probml_tp.metrics.over_runs import resampled_interval
from probml_tp.model import BayesianModel
from probml_tp.plots.style import GuideStyle, guide_style
from probml_tp.posterior import Posterior

Data = tuple[Tensor, Tensor]
TABLES: Mapping[str, tuple[Callable[..., Any], str]] = {
    "diabetes": (datasets.load_diabetes, "diabetes"),
    "breast-cancer": (datasets.load_breast_cancer, "breast cancer"),
    "wine": (datasets.load_wine, "wine"),
    "digits": (datasets.load_digits, "digits 8×8"),
}
"""Name to what loads the table, without a network, and what to call it."""

LIBRARY, ROWS = "scikit-learn", "Model and posterior"
CAPTION = (
    "Means over random splits; bars: t intervals at 95 % with the variance corrected for the "
    "overlap of the splits. Grey: scikit-learn."
)
UNUSED = ("laplace-diagonal", "concrete-dropout", "gaussian-dropout", "multi-swag")
"""Guides of neither task, each close to one that is."""


@dataclass(frozen=True, kw_only=True)
class TabularConfig(ExperimentConfig):
    """Options that both tasks have."""

    test_share: float = option(0.2, "Share of the points to test on.", minimum=0.05, maximum=0.9)
    num_samples: int = knob("num_samples", 100, full=500, minimum=10)
    rate: float = knob("rate", 0.1, remark="Of the hidden units.")
    rank: int = knob("rank", 5)
    jobs: int | None = knob("jobs", None, quick=1)
    splits: int = knob("splits", 6, quick=2, full=20, minimum=1)


@dataclass(frozen=True)
class Split:
    """Training and test points, standardised by the training points.

    Args:
        train: inputs ``(N, d)`` and targets ``(N,)`` in float64, or labels.
        test: likewise.
        y_mean: what was subtracted from real targets.
        y_scale: what they were divided by, in the units of ``y``.
    """

    train: Data
    test: Data
    y_mean: float = 0.0
    y_scale: float = 1.0


def load_table(name: str) -> tuple[Array, Array]:
    """Inputs ``(N, d)`` and targets or labels ``(N,)`` of one of :data:`TABLES`."""
    x, y = TABLES[name][0](return_X_y=True)
    return np.asarray(x, dtype=np.float64), np.asarray(y)


def split_sizes(name: str, config: TabularConfig) -> dict[str, int]:
    """Training and test points of a split, as :func:`resampled_interval` takes them."""
    size = len(load_table(name)[0])
    test = int(np.ceil(config.test_share * size))
    return {"train_size": size - test, "test_size": test}


def make_split(name: str, index: int, config: TabularConfig) -> Split:
    """Split a table at random, labels in equal shares; inputs that are constant become 0."""
    x, y = load_table(name)
    is_labels = y.dtype.kind in "iu"
    seed, size = derived_seed(config.seed, f"split {name} {index}"), split_sizes(name, config)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=size["test_size"], random_state=seed, stratify=y if is_labels else None
    )
    scaler = StandardScaler().fit(x_train)
    inputs = [torch.from_numpy(scaler.transform(part)) for part in (x_train, x_test)]
    mean, scale = (0.0, 1.0) if is_labels else (float(y_train.mean()), float(y_train.std()))
    targets = [
        torch.from_numpy(part if is_labels else (part - mean) / scale) for part in (y_train, y_test)
    ]
    return Split((inputs[0], targets[0]), (inputs[1], targets[1]), mean, scale)


class Fits(NamedTuple):
    """What is fitted of one model: which guides, how, and those that are fitted already."""

    model: BayesianModel
    guides: Collection[str]
    how: FitSettings
    given: Mapping[str, Posterior] = {}


@dataclass(frozen=True)
class Task:
    """A kind of tables.

    Args:
        fits: from a split, the options and the split's index to what is fitted of each model.
        methods: from a split and the options to what makes each method of scikit-learn, by name.
        predict: from a posterior, inputs and ``num_samples`` to a prediction.
        predict_by: from a method, a split and the options to a prediction of the test points.
        scores: from a prediction and the split to its metrics.
    """

    fits: Callable[[Split, Any, int], Mapping[str, Fits]]
    methods: Callable[[Split, Any], Mapping[str, Callable[[], Any]]]
    predict: Callable[..., Any]
    predict_by: Callable[[Any, Split, Any], Any]
    scores: Callable[[Any, Split], dict[str, float]]

    def fit(self, split: Split, config: TabularConfig, index: int) -> dict[str, Posterior]:
        """Fit everything to a split: row to posterior."""
        found: dict[str, Posterior] = {}
        for family, fits in self.fits(split, config, index).items():
            done = fit_all(fits.guides, fits.model, split.train, fits.how, given=fits.given)
            asked = [guide for guide in RECIPES if guide in fits.guides]
            found |= {f"{family} · {guide}": done[guide] for guide in asked}
        return found

    def judge(
        self, split: Split, posteriors: Mapping[str, Posterior], config: TabularConfig
    ) -> Table:
        """Judge the posteriors of a split, with scikit-learn's methods beside them."""
        table = Table("One split", ROWS)
        for row, posterior in posteriors.items():
            predictive = self.predict(posterior, split.test[0], num_samples=config.num_samples)
            seconds = posterior.info.total_seconds
            table.put(row, self.scores(predictive, split) | {"seconds": seconds})
        for name, make in self.methods(split, config).items():
            start = time.perf_counter()
            predictive = self.predict_by(make(), split, config)
            seconds = time.perf_counter() - start
            scores = self.scores(predictive, split) | {"seconds": seconds}
            table.put(f"{LIBRARY} · {name}", scores)
        return table

    @single_thread()
    def run(self, name: str, index: int, config: TabularConfig) -> Table:
        """Fit everything to a split of a table, and judge it."""
        split = make_split(name, index, config)
        return self.judge(split, self.fit(split, config, index), config)


def run_splits(
    task: Task, names: Sequence[str], results: Results[Any], progress: Progress
) -> dict[str, list[Table]]:
    """Fit everything to every split of every table, and judge it; results get the first's fits."""
    config: TabularConfig = results.config
    cells = [(name, index) for name in names for index in range(config.splits)]
    split = make_split(*cells[0], config)
    with progress.stage("first split"), single_thread():
        posteriors = task.fit(split, config, 0)
        found = [task.judge(split, posteriors, config)]
    with progress.stage("other splits") as update:

        def done(one: Table) -> None:
            found.append(one)
            update(len(found) - 1, len(cells) - 1, f"split {len(found)} of {len(cells)}")

        tasks = [partial(task.run, *cell, config) for cell in cells[1:]]
        if tasks:
            run_tasks(tasks, jobs=number_of_jobs(config.jobs, len(tasks)), done=done, order="given")
    with progress.stage("records for ArviZ"), single_thread():
        for row, posterior in posteriors.items():
            record = posterior.to_inference_data(*split.train, num_samples=config.num_samples)
            key = row.replace(" · ", "-")
            results.posteriors[key], results.inference_data[key] = posterior, record
    starts = {name: place * config.splits for place, name in enumerate(names)}
    return {name: found[start : start + config.splits] for name, start in starts.items()}


def put_means(
    table: Table,
    runs: Sequence[Table],
    metrics: Mapping[str, str],
    sizes: Mapping[str, int],
    *,
    less: str | None = None,
) -> None:
    """Enter means over the splits of one data set into a table, with corrected t intervals.

    Args:
        table: where.
        runs: the numbers of each split.
        metrics: column of the table to the metric of the splits that it is the mean of.
        sizes: of :func:`split_sizes`.
        less: a row whose values on the same splits are subtracted; it gets no row itself.
    """
    for row in dict.fromkeys(row for run in runs for row in run.rows if row != less):
        having = [run for run in runs if row in run.rows]
        for column, metric in metrics.items():
            values = [run[row, metric] - (run[less, metric] if less else 0.0) for run in having]
            found = resampled_interval(values, **sizes)
            known = found.interval if metric != "seconds" else None
            table.put(row, {column: found.mean}, {column: known} if known else None)


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
