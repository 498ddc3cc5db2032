"""Whether a fit has settled: a figure that its posterior, files, records and tables carry."""

from __future__ import annotations

import pytest
import torch

from probml_tp import BayesianModel, Convergence, Delta, Gaussian, NormalPrior, Posterior
from probml_tp.diagnostics.record import record_diagnostics
from probml_tp.fit_info import FitInfo

FAR = Convergence("R-hat", 1.2, 1.01, "Draw more samples.")


def _posterior(convergence: Convergence | None) -> Posterior:
    model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1), name="line")
    return Posterior(Delta(model), info=FitInfo(convergence=convergence))


@pytest.mark.parametrize(
    ("value", "converged"), [(1.0, True), (1.01, True), (1.02, False), (float("nan"), False)]
)
def test_it_has_settled_up_to_the_limit(value, converged):
    assert _posterior(Convergence("R-hat", value, 1.01, "")).converged is converged


def test_of_some_there_is_nothing_to_tell():
    posterior = _posterior(None)
    assert posterior.converged is None
    assert repr(posterior) == "<Posterior map of line>"


def test_what_prints_shows_the_figure():
    assert repr(_posterior(FAR)) == "<Posterior map of line, not settled: R-hat 1.2 > 1.01>"


@pytest.mark.parametrize("convergence", [None, FAR, Convergence("step", float("inf"), 0.3, "")])
def test_it_is_saved(convergence, tmp_path):
    posterior = _posterior(convergence)
    loaded = Posterior.load(posterior.save(tmp_path / "p"), posterior.model)
    assert loaded.info.convergence == convergence


def test_the_record_and_its_diagnostics_tell():
    x = torch.zeros(3, 1)
    record = _posterior(FAR).to_inference_data(x, x, num_samples=2)
    assert record.attrs["converged"] == 0
    assert record.attrs["convergence_measure"] == "R-hat"
    assert record_diagnostics(record) == {"unsettled": pytest.approx(1.2 / 1.01)}
    assert "converged" not in _posterior(None).to_inference_data(x, x, num_samples=2).attrs
