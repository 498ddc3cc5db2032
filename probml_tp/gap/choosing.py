"""Which posterior should I use? One call for a model and its data, one page as the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import data_pair
from probml_tp.gap import Advice, GapReport, Requirement
from probml_tp.gap.fits import study_own
from probml_tp.gap.problem import Config, GapOptions, own_experiment, own_problem
from probml_tp.gap.study import Comparison, GapStudy
from probml_tp.harness.experiment import Experiment, Figure, Results
from probml_tp.harness.report import build_report
from probml_tp.harness.results import check_file_name, write_results
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior

__all__ = ["PosteriorPage", "which_posterior"]

USUAL = GapOptions()


@dataclass(frozen=True)
class PosteriorPage:
    """The answer to :func:`which_posterior`; as text it is the recommendation.

    Args:
        study: the problem, its posteriors, the comparison and the recommendation.
        config: the options that it was made with.
    """

    study: GapStudy
    config: Config

    @property
    def advice(self) -> Advice:
        """Which posterior to use, why, and what would change that."""
        return self.study.advice

    @property
    def report(self) -> GapReport:
        """All numbers, with intervals."""
        return self.study.report

    @property
    def posteriors(self) -> Mapping[str, Posterior]:
        """Every posterior by name, those that were fitted here too."""
        return self.study.posteriors

    @property
    def refused(self) -> Mapping[str, str]:
        """The usual guides that refused the model or failed, with their reasons."""
        return self.study.refused

    @cached_property
    def _results(self) -> tuple[Experiment[Config], Results[Config]]:
        """The records and arrays of the page, which figures and files share."""
        return own_experiment(self.study, self.config)

    def __str__(self) -> str:
        """The recommendation, a sentence a line."""
        return str(self.advice)

    def figures(self) -> list[Figure]:
        """Draw the page's figures."""
        experiment, results = self._results
        return list(experiment.figures(results))

    @checked()
    def save(self, folder: str | Path) -> Path:
        """Write the page, its figures, numbers and posteriors.

        Args:
            folder: where to; earlier results of the same kind there are replaced, others stay and
                are in the same page.

        Returns:
            The page, ``<folder>/report.html``, which needs no other file. Beside it are the
            posteriors as ``which-posterior/posteriors/<name>.safetensors`` and ``<name>.nc``.

        Raises:
            ValueError: nothing can be written there.
        """
        experiment, results = self._results
        write_results(results, experiment, Path(folder))
        return build_report(Path(folder))


@checked(guides=None)
def which_posterior(
    model: BayesianModel,
    data: tuple[object, object],
    *,
    x: object | None = None,
    regions: Mapping[str, object] | None = None,
    guides: Sequence[str] | None = None,
    posteriors: Mapping[str, Posterior] | None = None,
    reference: str | None = None,
    requirements: Sequence[Requirement] | None = None,
    minutes: float = Config.minutes,
    seed: int = Config.seed,
    progress: bool | ProgressCallback = True,
    options: GapOptions = USUAL,
) -> PosteriorPage:
    """Fit the usual posteriors of a model, measure how far each is from the truth, recommend one.

    The reference is the exact posterior where the model is conjugate, else NUTS. The others are
    compared with it by :func:`probml_tp.gap.compare`, in every region, and judged by the
    rules of :func:`probml_tp.gap.recommend`.

    It answers within ``minutes``, about. The chains start far apart (at draws from the prior, at
    modes that were found, at the net drawn anew), and end when they know the functions: an R-hat of
    at most 1.01 and an effective sample size of at least 400 at every point. Where they do not in
    that time, or stay in different modes, the answer is provisional and says so: with both figures,
    with what needs no reference (k-hat, ELBO, IWELBO, PSIS-LOO, whether each fit has settled, how
    far the approximations are from each other), and with how long a reference would take.

    Args:
        model: the model.
        data: inputs and targets.
        x: inputs where predictions are compared, ``(N, ...)``. Default: 40 training inputs, 40
            midpoints between pairs of them, and 40 three times as far from the mean of the inputs.
        regions: name to a boolean array ``(N,)`` or to indices: which of ``x`` are where.
        guides: names of what to fit, such as ``("laplace", "mean-field")``. Default: MAP, Laplace,
            mean-field, a low-rank normal and, for nets, MC dropout and an ensemble; of these, what
            refuses the model or fails is left out and noted in ``refused``.
        posteriors: name to posterior of this model and these data that you have fitted yourself;
            a chain under the name ``"nuts"`` saves sampling one.
        reference: the name of the posterior to compare with.
        requirements: how far predictions may be off; default: those of ``recommend``.
        minutes: how long it may take. Fits, draws and chains are cut to it, and the page says what
            was. What is cut depends on the machine; chains that suffice are a function of the seed.
        seed: determines everything but what is cut.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.
        options: how guides are fitted, chains run and posteriors compared.

    Returns:
        The page: ``print(page)``, ``page.report``, ``page.save("folder")``.

    Raises:
        ValueError: the data do not fit the model, an option is invalid, a guide asked for by name
            fails, or none is left to compare.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, which_posterior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> page = which_posterior(model, (x, x), guides=("map", "laplace"), minutes=1)
        >>> page.advice.qualified
        ('laplace',)
    """
    config = Config(seed=seed, minutes=minutes, **vars(options))
    given = dict(posteriors or {})
    for name in given:
        check_file_name(name)
    checked = check_model(model).check_data(*data_pair("data", data))
    problem = own_problem(
        model,
        checked,
        x=None if x is None else model.check_inputs(x),
        regions=regions,
        guides=guides,
        given=list(given),
        reference=reference,
        config=config,
    )
    comparison = Comparison(
        num_samples=config.num_samples,
        resamples=config.resamples,
        level=config.level,
        requirements=requirements,
    )
    with progress_reporter(progress, "which posterior", unit="part") as update:
        study = study_own(
            problem,
            comparison=comparison,
            minutes=config.minutes,
            warmup=config.warmup,
            max_tree_depth=config.max_tree_depth,
            given=given,
            tolerant=guides is None,
            seed=config.seed,
            update=update,
        )
    return PosteriorPage(study, config)
