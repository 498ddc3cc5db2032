"""How often a fit ran the net over the training data."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from guide_cases import build

from probml_tp import (
    BayesianModel,
    Delta,
    Gaussian,
    Laplace,
    MeanFieldNormal,
    NormalPrior,
    fit,
    sample_nuts,
)
from probml_tp.inference import EarlyStopping, Mixture, fit_ensemble
from probml_tp.inference.nuts import sample as mcmc

X = torch.linspace(-1, 1, 12, dtype=torch.float64).unsqueeze(-1)
Y = X.squeeze(-1) + 0.1 * torch.cos(9 * X.squeeze(-1))


def _model() -> BayesianModel:
    net = torch.nn.Linear(1, 1).double()
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))


class Calls:
    """How many points a net was run at."""

    def __init__(self, model: BayesianModel) -> None:
        self.points = 0
        model.net.register_forward_pre_hook(self.count)

    def count(self, _module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        self.points += len(arguments[0])


def _passes(guide: object, **options: object) -> float:
    return fit(_model(), guide, (X, Y), progress=False, **options).info.forward_passes


@pytest.mark.parametrize("batch_size", [None, 4, 5])
def test_an_epoch_is_one_pass_whatever_the_batches(batch_size):
    assert _passes(MeanFieldNormal, epochs=7, batch_size=batch_size) == pytest.approx(7)


def test_steps_of_a_line_search_are_counted(monkeypatch):
    monkeypatch.setattr(Delta, "convergence", lambda *_: None)
    model = _model()
    model.check_data(X, Y)
    calls = Calls(model)
    found = fit(model, Delta, (X, Y), epochs=3, optimizer="lbfgs", progress=False)
    passes = found.info.forward_passes
    assert passes > 3
    assert calls.points - 2 == passes * len(X)  # two points are run to check that the net stays


@pytest.mark.parametrize("early", [None, EarlyStopping(patience=100)])
@pytest.mark.parametrize("held_out", [None, (X[:6], Y[:6])])
def test_evaluations_between_epochs_are_counted(early, held_out):
    found = _passes(Delta, epochs=4, early_stopping=early, validation=held_out)
    evaluated = 0.5 if held_out is not None else 1.0 if early is not None else 0.0
    assert found == pytest.approx(4 * (1 + evaluated))


def test_members_count_each():
    together = _passes(partial(Mixture, member=Delta, members=3), epochs=5)
    apart = fit_ensemble(_model(), Delta, (X, Y), members=3, epochs=5, jobs=1, progress=False)
    assert together == apart.info.forward_passes == 15


def test_the_closed_form_part_is_counted():
    for guide, members in ((Laplace, 1), (partial(Mixture, member=Laplace, members=2), 2)):
        found = fit(_model(), guide, (X, Y), epochs=5, progress=False)
        closed = found.guide.finalize_passes
        assert closed >= 3 * members
        assert found.info.forward_passes == 5 * members + closed


@pytest.mark.parametrize(
    "name", ["laplace", "laplace-kronecker", "laplace-diagonal", "exact", "mean-field", "swag"]
)
def test_what_finalize_takes_is_what_it_says(name):
    guide, case = build(name, "linear" if name == "exact" else "mlp")
    data = case.model.check_data(case.x, case.y)
    whole = []

    def count(_module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        whole.append(len(arguments[0]) == case.size)  # one example is run to learn the structure

    case.model.net.register_forward_pre_hook(count)
    guide.finalize(*data)
    assert sum(whole) == guide.finalize_passes


def test_a_resumed_fit_counts_both_parts(tmp_path):
    path = tmp_path / "fit.pt"

    def stop(done: int, _total: int, _message: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(_model(), Delta, (X, Y), epochs=5, checkpoint=path, progress=stop)
    assert _passes(Delta, epochs=5, checkpoint=path) == 5


class Gradients:
    """How many gradients chains asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        call = mcmc.Potential.__call__

        def counted(potential: mcmc.Potential, q: object) -> object:
            self.count += len(q)
            return call(potential, q)

        monkeypatch.setattr(mcmc.Potential, "__call__", counted)


@pytest.mark.parametrize("mass_matrix", ["diagonal", "laplace"])
def test_every_gradient_of_a_chain_is_counted(mass_matrix, monkeypatch):
    model = _model()
    mode = fit(model, Delta, (X, Y), epochs=3, optimizer="lbfgs", progress=False)
    calls = Gradients(monkeypatch)
    chain = sample_nuts(
        model, (X, Y), init=mode, mass_matrix=mass_matrix, warmup=20, draws=10, chains=2,
        chains_per_batch=1, jobs=1, progress=False,
    )  # fmt: skip
    curvature = 2 if mass_matrix == "laplace" else 0  # one gradient a row of the Hessian
    assert chain.info.forward_passes == calls.count + curvature
    assert chain.info.start_passes == mode.info.forward_passes


def test_a_fit_costs_what_it_started_from_too():
    model = _model()
    mode = fit(model, Delta, (X, Y), epochs=3, progress=False)
    laplace = fit(model, Laplace, (X, Y), init=mode, epochs=0, progress=False)
    chain = sample_nuts(model, (X, Y), init=laplace, warmup=5, draws=5, chains=1, progress=False)
    assert laplace.info.total_passes == 3 + laplace.info.forward_passes
    assert chain.info.start_passes == laplace.info.total_passes
    assert chain.info.total_seconds > chain.info.seconds > 0
