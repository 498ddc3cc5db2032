"""One call for a user's model and data: what it fits, says, saves and refuses."""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Delta,
    Gaussian,
    Laplace,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
    which_posterior,
)
from probml_tp.empirical import Empirical
from probml_tp.gap import CLASSIFICATION, Requirement, compare
from probml_tp.gap import chains as own_chains
from probml_tp.gap import fits as own_fits
from probml_tp.gap import problem as own_problem
from probml_tp.gap.choosing import PosteriorPage
from probml_tp.gap.doubt import doubt_of_chains
from probml_tp.gap.problem import GapOptions, usual_points
from probml_tp.gap.sample import collect
from probml_tp.harness.results import read_results
from probml_tp.kit.common import labels_of
from probml_tp.models import CLASSICS, mlp_regressor

QUICK = {"epochs": 50, "num_samples": 200, "resamples": 20, "progress": False}
SHORT = {"minutes": 0.02, "chains": 2, "warmup": 30}


def ask(*arguments: Any, **given: Any) -> PosteriorPage:
    """``which_posterior`` with what belongs to its options put there."""
    own = {name: given.pop(name) for name in GapOptions.__dataclass_fields__ if name in given}
    return which_posterior(*arguments, options=GapOptions(**own), **given)


def flips(seed: int = 0) -> tuple[BayesianModel, tuple[torch.Tensor, torch.Tensor]]:
    """A logistic regression with two weights and a bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 2, dtype=torch.float64, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(60, dtype=torch.float64, generator=generator) > 0).double()
    net = torch.nn.Linear(2, 1).double()
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return BayesianModel(net, NormalPrior(2.0), Bernoulli()), (x, y)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The guides that are fitted from now on."""
    fitted: list[str] = []
    fit = own_fits.fit_one

    def record(guide: str, *arguments: Any, **options: Any) -> Posterior:
        fitted.append(guide)
        return fit(guide, *arguments, **options)

    monkeypatch.setattr(own_fits, "fit_one", record)
    return fitted


@pytest.fixture(scope="module")
def page() -> PosteriorPage:
    return ask(*flips(), chains=2, draws=600, warmup=300, **QUICK)


@pytest.fixture(scope="module")
def chain() -> Posterior:
    model, data = flips()
    return sample_nuts(model, data, chains=2, draws=600, warmup=300, progress=False)


def test_the_usual_guides_and_chains_are_compared_in_the_usual_regions(page):
    assert list(page.posteriors) == ["laplace", "mean-field", "low-rank-normal", "map", "nuts"]
    assert page.report.reference == "nuts"
    assert list(page.report.functions["region"].unique()) == ["all", "data", "between", "beyond"]
    assert not page.refused
    assert str(page).startswith(f"Use {page.advice.choice}")
    assert page.report.evidence["elbo"].notna().sum() == 3


def test_the_page_and_the_posteriors_are_saved(page, tmp_path):
    path = page.save(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "Which posterior should I use?" in text
    for sentence in page.advice.reasons:
        assert sentence.partition(";")[0] in text
    saved = read_results(tmp_path / "which-posterior")
    assert saved.main.rows == ["noise floor", *[n for n in page.posteriors if n != "nuts"]]
    assert [f.name for f in saved.figures][:5] == [
        "verdicts",
        "gap",
        "weights",
        "k-hat",
        "evidence",
    ]
    folder = tmp_path / "which-posterior" / "posteriors"
    again = Posterior.load(folder / "laplace.safetensors", flips()[0])
    torch.testing.assert_close(again.guide.loc, page.posteriors["laplace"].guide.loc)
    assert (folder / "nuts.nc").exists()


def test_figures_are_drawn_without_saving(page):
    names = [figure.name for figure in page.figures()]
    assert names[0] == "verdicts"
    title = page.figures()[0].figure.axes[0].get_title(loc="left")
    assert title.startswith(("Use ", "Keep ")) and labels_of([page.advice.choice]) in title


def test_what_is_given_is_not_fitted_again(chain, monkeypatch):
    model, data = flips()
    mine = fit(model, Laplace, data, epochs=5, optimizer="lbfgs", progress=False)
    fitted = recorded(monkeypatch)
    given = {"mine": mine, "nuts": chain}
    page = ask(model, data, posteriors=given, guides=("map",), **QUICK)
    assert set(fitted) == {"map"}
    assert page.posteriors["mine"] is mine
    assert page.posteriors["nuts"] is chain


def test_a_conjugate_model_has_the_exact_posterior_as_its_reference():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1)
    model = BayesianModel(torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1))
    page = ask(model, (x, x.squeeze(-1)), **QUICK | {"num_samples": 2000})
    assert page.report.reference == "exact"
    assert page.advice.choice == "exact"  # it costs least, too
    assert page.advice.qualified[0] == "laplace"
    assert "nuts" not in page.posteriors


def test_a_net_gets_dropout_an_ensemble_and_the_linearised_net(monkeypatch):
    model = mlp_regressor(1, hidden=(4,), prior=NormalPrior(1.0), likelihood=0.1, seed=0)
    assert own_problem._usual_guides(model) == [
        "laplace-linearized", "laplace", "mean-field", "low-rank-normal", "mc-dropout",
        "deep-ensemble", "map",
    ]  # fmt: skip
    monkeypatch.setattr(own_problem, "MOST_DENSE", 5)
    assert own_problem._usual_guides(model)[:2] == ["laplace-kronecker", "laplace-last-layer"]


def test_a_usual_guide_that_refuses_the_model_is_noted_and_the_rest_goes_on():
    schools = CLASSICS["eight-schools-centered"]()
    chains = sample_nuts(schools.model, schools.data, draws=30, warmup=30, chains=2, progress=False)
    page = ask(schools.model, schools.data, posteriors={"nuts": chains}, **QUICK)
    assert "positive definite" in page.refused["laplace"]
    assert list(page.advice.table["region"].unique()) == ["data", "between"]  # no ninth school
    assert "mean-field" in page.posteriors
    assert "laplace" not in page.posteriors
    with pytest.raises(ValueError, match="positive definite"):
        ask(schools.model, schools.data, posteriors={"nuts": chains}, guides=("laplace",), **QUICK)


class Choosy(torch.nn.Module):
    """A net that no transform of torch takes: it looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(self.inner.weight.detach().sum()) > 1e9:
            raise RuntimeError("never")
        return self.inner(x)


def test_a_guide_that_fails_whatever_it_raises_is_left_out_unless_asked_for(monkeypatch):
    fit = own_fits.fit_one

    def fails(guide: str, *arguments: Any, **options: Any) -> Posterior:
        if guide == "mean-field":
            raise RuntimeError("vmap: not in this net\nand a long trace")
        return fit(guide, *arguments, **options)

    monkeypatch.setattr(own_fits, "fit_one", fails)
    page = ask(*flips(), **SHORT, **QUICK)
    assert page.refused["mean-field"] == "RuntimeError: vmap: not in this net"
    assert "laplace" in page.posteriors
    with pytest.raises(RuntimeError, match="vmap"):
        ask(*flips(), guides=("mean-field",), **SHORT, **QUICK)


def test_a_net_that_cannot_be_vectorised_is_answered_too():
    _, data = flips()
    page = ask(BayesianModel(Choosy(), NormalPrior(2.0), Bernoulli()), data, **SHORT,
                           **QUICK)  # fmt: skip
    assert len(page.posteriors) > 2


# ------------------------------------------------------------------------------------- doubt


def test_chains_given_that_have_not_converged_make_the_page_provisional(chain):
    model, data = flips()
    draws = {name: values[:, :30] for name, values in chain.guide.chains.items()}
    short = Posterior(Empirical(model, method="nuts", draws=draws), info=chain.info)
    page = ask(model, data, posteriors={"nuts": short}, guides=("laplace",), **QUICK)
    assert page.advice.provisional
    assert page.advice.doubt.kind == "length"
    lines = str(page).splitlines()
    assert lines[0].endswith("(provisional: length).")
    assert "R-hat of the functions is" in lines[1]
    assert any(line.startswith("laplace: k-hat") and "PSIS-LOO" in line for line in lines)
    assert any("would take about" in line for line in lines)


def test_the_time_that_a_reference_needs_follows_from_its_pace(chain):
    model, data = flips()
    draws = {name: values[:, :30] for name, values in chain.guide.chains.items()}
    short = Posterior(
        Empirical(model, method="nuts", draws=draws), info=replace(chain.info, seconds=60.0)
    )
    found = collect(short, data[0], sites=(), num_samples=1, seed=0).convergence
    doubt = doubt_of_chains("nuts", short, data[0])
    factor = max(400 / found.ess, (found.r_hat - 1) / 0.01)  # 60 s is one minute
    assert f"about {factor:.2g} minutes" in doubt.remedy[0]
    laplace = fit(model, Laplace, data, epochs=5, optimizer="lbfgs", progress=False)
    assert doubt_of_chains("laplace", laplace, data[0]) is None
    drawn = {name: v.unflatten(0, (2, 1000)) for name, v in laplace.guide.sample(2000).items()}
    independent = Posterior(Empirical(model, method="nuts", draws=drawn))
    assert doubt_of_chains("nuts", independent, data[0]) is None


class Wave(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(1.4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.a * x)


def test_modes_are_found_and_nothing_is_recommended_with_confidence():
    """f(x) = sin(a x) on whole numbers: a and a + 2 pi fit alike, and f(0.5) tells them apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(20.0).unsqueeze(-1)
    y = torch.sin(1.5 * x).squeeze(-1) + 0.1 * torch.randn(20, generator=generator)
    model = BayesianModel(Wave(), NormalPrior(5.0), Gaussian(scale=0.1))
    page = ask(
        model, (x, y), x=torch.tensor([[0.5], [3.0]]), guides=("map", "laplace"), minutes=0.1,
        **QUICK,
    )  # fmt: skip
    text = str(page)
    assert "provisional: modes" in text
    assert "Use laplace" not in text
    assert page.report.costs.loc["nuts", "r_hat"] > 1.1
    a = np.linspace(-25, 25, 2_000_001)  # the truth by quadrature
    log_p = -0.5 * (a / 5) ** 2
    for at, value in zip(x.flatten().tolist(), y.tolist(), strict=True):
        log_p -= 0.5 * ((value - np.sin(a * at)) / 0.1) ** 2
    p = np.exp(log_p - log_p.max())
    f = np.sin(0.5 * a)
    sd = np.sqrt((p @ f**2) / p.sum() - ((p @ f) / p.sum()) ** 2)
    draws = page.posteriors["nuts"].guide.chains["a"].numpy()
    assert np.sin(0.5 * draws).std() > 0.3 * sd  # one mode alone has a fiftieth
    assert np.sin(0.5 * draws[0]).std() < 0.05 * sd


def test_a_net_too_dear_for_chains_is_answered_without_a_reference(monkeypatch):
    monkeypatch.setattr(own_chains, "LEAST_GRADIENTS", 10**12)
    page = ask(*flips(), **SHORT, **QUICK)
    assert "(provisional: no reference)" in str(page).splitlines()[0]
    assert "a gradient of 2 chains takes" in str(page)
    assert page.advice.choice in ("laplace", "mean-field", "low-rank-normal")
    assert "nuts" in page.refused


def test_a_doubtful_page_is_saved_with_its_doubt(monkeypatch, tmp_path):
    monkeypatch.setattr(own_chains, "LEAST_GRADIENTS", 10**12)
    page = ask(*flips(), guides=("map", "laplace"), **SHORT, **QUICK)
    text = page.save(tmp_path).read_text(encoding="utf-8")
    assert "provisional: no reference" in text


def test_a_net_that_is_not_linear_has_no_exact_posterior():
    """Known before anything is fitted, by the test that Exact itself uses."""
    model = mlp_regressor(1, hidden=(4,), prior=NormalPrior(1.0), likelihood=0.1, seed=0)
    x = torch.linspace(-1, 1, 20).unsqueeze(-1)
    page = ask(model, (x, x), guides=("map", "laplace"), **SHORT, **QUICK)
    assert page.study.problem.reference == "nuts"


# ------------------------------------------------------------------------- every kind of model


@pytest.mark.parametrize("name", ["linear", "mlp-regressor", "mlp-classifier", "lenet", *CLASSICS,
                                  "readme", "gru", "attention", "weight-norm", "convolution",
                                  "counts", "frozen", "unscaled"])  # fmt: skip
def test_every_model_is_answered_in_its_time(name, checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    torch.manual_seed(0)
    model, data = importlib.import_module("which_posterior").PROBLEMS[name]()
    start = time.process_time()
    page = ask(model, data, minutes=0.02, progress=False)
    assert time.process_time() - start < 1.2 + 30
    assert page.report.reference in page.posteriors
    assert page.advice.provisional == ("provisional" in str(page))
    assert str(page).startswith(f"Use {page.advice.choice}")


def test_requirements_of_ones_own_are_what_is_judged_by_on_the_saved_page_too(chain, tmp_path):
    asked = (Requirement("kl", 0.5, words="KL divergence"),)
    page = ask(*flips(), posteriors={"nuts": chain}, guides=("map",), requirements=asked, **QUICK)
    assert list(page.advice.table["requirement"].unique()) == ["kl"]
    assert page.advice.qualified == ("map",)
    assert "KL" in page.save(tmp_path).read_text(encoding="utf-8")


def test_points_and_regions_of_ones_own(chain):
    model, (x, y) = flips()
    grid = torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0]])
    page = ask(
        model, (x, y), x=grid, regions={"far": [1, 2]}, posteriors={"nuts": chain},
        guides=("map",), **QUICK,
    )  # fmt: skip
    assert list(page.advice.table["region"].unique()) == ["far"]


def test_the_same_seed_is_the_same_page():
    first, second = (ask(*flips(), guides=("mean-field",), chains=2, **QUICK) for _ in range(2))
    assert not first.advice.provisional
    assert first.report.functions.equals(second.report.functions)


def test_it_compares_as_compare_does(page):
    _, data = flips()
    x, regions, _ = usual_points(page.study.problem.model, data[0], points=40, seed=0)
    count = int(page.report.costs.loc["laplace", "draws"])  # 200 unless time was short
    report = compare(
        page.posteriors, "nuts", x, data=data, regions=regions, num_samples=count, resamples=20
    )
    assert report.functions.equals(page.report.functions)


def test_the_usual_points_are_where_they_say():
    x = torch.tensor([[0.0], [10.0]])
    model = mlp_regressor(1, hidden=(4,), prior=NormalPrior(1.0), likelihood=0.1, seed=0)
    points, regions, (note,) = usual_points(model, x, points=2, seed=0)
    assert "2 midpoints of pairs of them (between)" in note
    assert set(points[regions["data"]].flatten().tolist()) == {0.0, 10.0}
    assert set(points[regions["between"]].flatten().tolist()) <= {0.0, 5.0, 10.0}
    assert set(points[regions["beyond"]].flatten().tolist()) == {-10.0, 20.0}
    tokens, only, (note,) = usual_points(model, torch.arange(3).unsqueeze(-1), points=2, seed=0)
    assert list(only) == ["data"] and len(tokens) == 2
    assert np.all(only["data"])
    assert "takes no inputs between or beyond the data" in note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guides": ("laplce",)}, "guides must be names among exact, nuts"),
        ({"guides": "map"}, "guides must be names among"),
        ({"reference": "map"}, "the reference must be exact or nuts, or one of the posteriors"),
        ({"regions": {"far": [0]}}, "got regions and no x"),
        ({"epochs": 0}, "Option epochs must be at least 1"),
        ({"chains": 1}, "Option chains must be at least 2"),
        ({"minutes": 0}, "Option minutes must be at least"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ask(*flips(), **QUICK | options)


def test_names_that_are_no_file_names_are_refused_before_anything_is_fitted():
    model, data = flips()
    mine = fit(model, Delta, data, epochs=1, progress=False)
    with pytest.raises(ValueError, match="becomes a file name"):
        ask(model, data, posteriors={"my fit": mine}, **QUICK)


def test_a_posterior_of_other_data_is_refused(chain):
    model, _ = flips()
    _, other = flips(seed=1)
    with pytest.raises(ValueError, match="same data|those that the posteriors were fitted to"):
        ask(model, other, posteriors={"nuts": chain}, guides=("map",), **QUICK)


def test_the_limits_of_the_doc_are_the_ones_used(page):
    limits = dict(zip(page.advice.table["requirement"], page.advice.table["limit"], strict=True))
    assert limits == {r.metric: r.limit for r in CLASSIFICATION}
