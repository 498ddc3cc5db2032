r"""How far each approximate posterior is from a reference: in its weights, and in its functions.

Two posteriors of a net can differ in every weight and still be the same distribution over
functions: units can be swapped, signs flipped. Weights are compared by their marginals, which says
something where they are identified, as in linear models; the functions are what counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, strictly_between_0_and_1, valid_seed
from probml_tp.gap.checks import (
    EVERYWHERE,
    NOISE_FLOOR,
    check_converged,
    check_same_data,
    checked_inputs,
    checked_regions,
)
from probml_tp.gap.distances import (
    Measure,
    classification_measures,
    reflected_interval,
    regression_measures,
    weight_measures,
)
from probml_tp.gap.evidence import evidence_tables
from probml_tp.gap.sample import Convergence, Resampled, Sample, collect
from probml_tp.posterior import Posterior
from probml_tp.records import check_sites
from probml_tp.streams import Stream, substream

__all__ = ["GapReport", "compare", "draw_seeds"]

Array = np.ndarray[Any, Any]

LEAST_DRAWS = 20


@dataclass(frozen=True)
class GapReport:
    """How far posteriors are from a reference, every number with a bootstrap interval.

    Args:
        reference: its name.
        level: of the intervals.
        weights: one row for each ``posterior``, ``site`` and ``metric``: ``value``, ``low``,
            ``high``, over the site's elements.
        functions: the same for each ``posterior``, ``region`` and ``metric``, over the region's
            points; the region ``"all"`` is every point.
        points: the same for each ``posterior``, ``metric`` and ``point`` (and ``target``).
        costs: one row a posterior: ``seconds`` of its fit and of the one that it started from,
            ``forward_passes`` likewise (NaN where not counted), ``peak_memory_mib`` of the process
            up to its end, the ``draws`` compared, and of a chain ``r_hat``, ``ess`` and
            ``tail_ess``, the worst over the function values.
        evidence: one row a posterior, where ``data`` were given: ``step_left`` of a variational
            normal to the optimum of its kind (:func:`step_left`), ``pareto_k`` and its
            ``k_threshold``, ``elbo``, ``iwelbo`` of 50 draws, ``log_evidence`` (exact, Laplace; of
            chains by bridge sampling) and ``elpd_loo``, each of these with its ``_error``, a
            standard error, and ``loo_worst_k``; NaN where not defined or not to be had.
        layers: Pareto k-hat of each posterior with a density, a column for each layer.
        layer_errors: standard errors of these.
    """

    reference: str
    level: float
    weights: pd.DataFrame
    functions: pd.DataFrame
    points: pd.DataFrame
    costs: pd.DataFrame
    evidence: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    layer_errors: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_classification(self) -> bool:
        """Whether predictions are class probabilities."""
        return "total_variation" in set(self.functions["metric"])

    @property
    def regions(self) -> list[str]:
        """The regions that were given, else ``["all"]``."""
        regions = [str(region) for region in self.functions["region"].unique()]
        return [region for region in regions if region != EVERYWHERE] or regions

    def table(
        self, space: Literal["functions", "weights"] = "functions", *, of: str | None = None
    ) -> pd.DataFrame:
        """Posteriors by metrics, each with value, low and high; the noise floor comes first.

        Args:
            space: which of the two.
            of: a region (default: all points) or a site (default: the model's first).

        Returns:
            The table, its columns ``(metric, "value" | "low" | "high")``.

        Raises:
            ValueError: there is no such space, region or site.
        """
        if space not in ("functions", "weights"):
            raise ValueError(f"space must be 'functions' or 'weights'; got {space!r}.")
        rows = self.functions if space == "functions" else self.weights
        key = "region" if space == "functions" else "site"
        known = list(rows[key].unique()) if len(rows) else []
        chosen = known[0] if of is None and known else of
        if chosen not in known:
            raise ValueError(f"a table is of one {key} of {known}; got {of!r}. Pass one of them.")
        rows = rows[rows[key] == chosen]
        wide = rows.pivot(index="posterior", columns="metric", values=["value", "low", "high"])
        wide = wide.swaplevel(axis=1)
        columns = [(m, e) for m in rows["metric"].unique() for e in ("value", "low", "high")]
        return wide.loc[list(rows["posterior"].unique()), columns]


@checked()
def compare(
    posteriors: Mapping[str, Posterior],
    reference: str,
    x: object,
    *,
    data: tuple[object, object] | None = None,
    regions: Mapping[str, object] | None = None,
    sites: Sequence[str] | None = None,
    num_samples: int = 1000,
    level: float = 0.95,
    resamples: int = 200,
    accept_reference: bool = False,
    seed: int = 0,
) -> GapReport:
    r"""Measure how far each posterior is from a reference, by draws of both.

    With :math:`q` a posterior and :math:`p` the reference, at each point of ``x``:

    - classification: ``total_variation`` of the predictives, ``kl``
      :math:`= \mathrm{KL}(\bar p \| \bar q)` in nats, and ``mutual_information_ratio``, of
      epistemic uncertainty;
    - regression: ``w2``, the 2-Wasserstein distance of the function values in the units of ``y``,
      ``epistemic_ratio`` of their standard deviations, and how much of the reference lies in the
      posterior's central interval of probability ``level``: ``function_coverage`` of function
      values, ``target_coverage`` of targets with noise. A KL divergence is left out: it would need
      the densities of mixtures.

    Over a region distances and coverages are averaged; a ratio is that of the averages. At each
    site: ``mean_difference`` in standard deviations of the reference (absolute), ``variance_ratio``
    :math:`\mathrm{Var}_q / \mathrm{Var}_p` and ``w2`` of the marginals, each averaged over its
    elements and NaN where the reference does not vary. Weights of a net are not identified.

    All Wasserstein distances are those of the draws, exact in one dimension by sorting them, also
    where both posteriors are normal: so all rows have the same noise. Draws of one distribution
    are some way apart too: the row ``"noise floor"`` compares the first half of the reference's
    draws (of every chain) with the second, and a gap of that size or below may be none. Halves
    have fewer draws, so this floor is too high rather than too low, by up to a factor of
    :math:`\sqrt 2`.

    Intervals are reflected bootstrap intervals over the draws of both posteriors. Chains give all
    their draws and are resampled in blocks of four autocorrelation times, after their smallest
    bulk or tail effective sample size at ``x``; for weights that mix worse than the functions, as
    those of nets do, the intervals are too narrow. Finitely many points (MAP, an ensemble) are the
    posterior itself and are not resampled.

    Args:
        posteriors: name to posterior; all of one model.
        reference: the name of the one that the others are compared with, such as NUTS.
        x: inputs ``(N, ...)``, away from the data too.
        data: inputs and targets that the posteriors were fitted to: then the report tells of each
            what needs no reference, its evidence.
        regions: name to a boolean array ``(N,)`` or to indices of points, such as those inside,
            between and outside the data.
        sites: whose weights are compared; default all, ``()`` for none.
        num_samples: independent draws of a posterior that is not a chain.
        level: of the intervals, and of the central intervals whose coverage is counted.
        resamples: ``R``.
        accept_reference: compare with chains that have not converged.
        seed: determines draws and resamples; a posterior's do not depend on the others.

    Returns:
        The report.

    Raises:
        ValueError: there is nothing to compare, the models or the data that they were fitted to
            differ, ``x``, ``data`` or a region does not fit, the reference consists of finitely
            many points, or it has not converged: its R-hat on the function values (class
            probabilities) at ``x`` is above 1.01 or unknown, or its bulk effective sample size
            below 400 (Vehtari et al. 2021).

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Exact, Gaussian, MeanFieldNormal, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> fits = {"exact": fit(model, Exact, (x, x)), "prior": Posterior(MeanFieldNormal(model))}
        >>> table = compare(fits, "exact", x, num_samples=200, resamples=50).table()
        >>> bool(table["w2", "low"]["prior"] > table["w2", "high"]["noise floor"])
        True
    """
    inputs = checked_inputs(posteriors, reference, x)
    check_same_data(posteriors, reference, data)
    places = checked_regions(regions, len(inputs))
    chosen = check_sites(posteriors[reference].model, sites)
    if positive_integer("num_samples", num_samples) < LEAST_DRAWS:
        raise ValueError(
            f"a comparison needs num_samples of at least {LEAST_DRAWS}; got {num_samples}. Pass "
            f"1000."
        )
    positive_integer("resamples", resamples)
    strictly_between_0_and_1("level", level)
    seeds = draw_seeds(seed, posteriors)
    samples = {}
    for name in sorted(posteriors, key=lambda name: name != reference):  # refuse it first
        samples[name] = collect(
            posteriors[name], inputs, sites=chosen, num_samples=num_samples, seed=seeds[name]
        )
        if name == reference and not accept_reference:
            check_converged(name, samples[name].convergence)
    rows = _Rows(places, chosen, level)
    first, second = samples[reference].halves()
    floor = {NOISE_FLOOR: first.resample(resamples, seed)}
    rows.add(floor, second.resample(resamples, seed + 1))
    target = samples[reference].resample(resamples, substream(seed, Stream.COMPARISON))
    others = [name for name in posteriors if name != reference]
    rows.add({name: samples[name].resample(resamples, seeds[name]) for name in others}, target)
    tables = (
        ()
        if data is None
        else evidence_tables(posteriors, data, num_samples=num_samples, seeds=seeds)
    )
    return GapReport(
        reference,
        level,
        pd.DataFrame(rows.weights),
        pd.DataFrame(rows.functions),
        pd.DataFrame(rows.points),
        _costs(posteriors, samples),
        *tables,
    )


def draw_seeds(seed: int, names: Iterable[str]) -> dict[str, int]:
    """The seed of each posterior's draws, which does not depend on the others.

    Args:
        seed: of the comparison.
        names: of the posteriors.

    Returns:
        Name to seed.
    """
    return {name: substream(valid_seed(seed), Stream.COMPARISON, *name.encode()) for name in names}


class _Rows:
    """The lines of the report's tables, as they are found."""

    def __init__(self, regions: Mapping[str, Array], sites: Sequence[str], level: float) -> None:
        self.regions, self.sites, self.level = regions, sites, level
        self.weights: list[dict[str, Any]] = []
        self.functions: list[dict[str, Any]] = []
        self.points: list[dict[str, Any]] = []

    def add(self, qs: Mapping[str, Resampled], p: Resampled) -> None:
        """Compare posteriors with the reference."""
        weights = {site: weight_measures(site, qs, p) for site in self.sites}
        if "probs" in p.sample.functions:
            functions = classification_measures(qs, p)
        else:
            functions = regression_measures(qs, p, self.level)
        for name in qs:
            for site, measures in weights.items():
                for metric, measure in measures[name].items():
                    line = {"posterior": name, "site": site, "metric": metric}
                    everywhere = np.arange(measure.values.shape[1])
                    self.weights.append(line | self._interval(measure, everywhere))
            for region, points in self.regions.items():
                for metric, measure in functions[name].items():
                    line = {"posterior": name, "region": region, "metric": metric}
                    index = _columns(points, measure, len(self.regions[EVERYWHERE]))
                    self.functions.append(line | self._interval(measure, index))
            for metric, measure in functions[name].items():
                self._add_points({"posterior": name, "metric": metric}, measure)

    def _interval(self, measure: Measure, index: Array) -> dict[str, float]:
        ends = reflected_interval(measure.over(index), measure, self.level)
        return dict(zip(("value", "low", "high"), map(float, ends), strict=True))

    def _add_points(self, line: dict[str, Any], measure: Measure) -> None:
        per_point = measure.values.shape[1] // len(self.regions[EVERYWHERE])
        ends = reflected_interval(measure.each(), measure, self.level)
        for column, (value, low, high) in enumerate(np.stack(ends, 1).tolist()):
            place = {"point": column // per_point, "target": column % per_point}
            self.points.append(line | place | {"value": value, "low": low, "high": high})


def _columns(points: Array, measure: Measure, num_points: int) -> Array:
    """The columns of some points: several targets of a point are side by side."""
    per_point = measure.values.shape[1] // num_points
    columns: Array = (points[:, None] * per_point + np.arange(per_point)).ravel()
    return columns


def _costs(posteriors: Mapping[str, Posterior], samples: Mapping[str, Sample]) -> pd.DataFrame:
    rows = {}
    for name, posterior in posteriors.items():
        found = samples[name].convergence or Convergence(np.nan, np.nan, np.nan)
        rows[name] = {
            "seconds": posterior.info.total_seconds,
            "peak_memory_mib": posterior.info.peak_memory_mib,
            "forward_passes": posterior.info.total_passes or np.nan,
            "draws": samples[name].size,
            **vars(found),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("posterior")
