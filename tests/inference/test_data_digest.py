"""What a posterior remembers of the data it was fitted to."""

from __future__ import annotations

import torch

from probml_tp import BayesianModel, Delta, Exact, Gaussian, Laplace, NormalPrior, fit, sample_nuts
from probml_tp.guides import fit_evidence, maximize_evidence
from probml_tp.inference import fit_ensemble

X = torch.linspace(-1, 1, 12, dtype=torch.float64).unsqueeze(-1)
Y = X.squeeze(-1) + 0.1 * torch.cos(9 * X.squeeze(-1))


def _model() -> BayesianModel:
    return BayesianModel(torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1))


def test_every_runner_notes_the_same_digest_of_the_same_data() -> None:
    model, data = _model(), (X, Y)
    laplace = fit(model, Laplace, data, epochs=2, progress=False)
    found = [
        laplace,
        fit(model, Exact, data, progress=False),
        sample_nuts(model, data, draws=4, warmup=4, chains=2, jobs=1, progress=False),
        fit_ensemble(model, Delta, data, members=2, epochs=1, jobs=1, progress=False),
        maximize_evidence(laplace, data),
        fit_evidence(model, data, epochs=2, burn_in=1, every=1),
    ]
    assert len({posterior.info.data for posterior in found}) == 1
    assert found[0].info.data


def test_other_data_have_another_digest() -> None:
    model = _model()
    first, second = (fit(model, Exact, (X, y), progress=False) for y in (Y, Y + 1e-9))
    assert first.info.data != second.info.data
