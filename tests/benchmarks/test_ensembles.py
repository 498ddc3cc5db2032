"""The benchmark of ensembles runs: its contenders agree, and its report names them."""

from __future__ import annotations

import importlib

import pytest

from probml_tp import Delta, Posterior
from probml_tp.models import mlp_regressor
from probml_tp.priors import NormalPrior

TINY = {"rounds": 1, "members": 2, "batch": 8, "steps": 1, "points": 16, "mlp_epochs": 1}


@pytest.fixture
def ensembles(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("ensembles")


@pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning")
def test_a_tiny_run_reports_every_contender(ensembles):
    text = ensembles.run(ensembles.Size(**TINY, digits=16, lenet_epochs=1), None)
    for name in ("vmap", "loop", "2 processes", "one by one", "together, same batches"):
        assert text.count(f"| {name} |") == 2
    assert text.count("Gradients of 2 MAP members") == text.count("Deep ensemble of 2") == 2


def test_fits_that_differ_are_not_timed(ensembles):
    models = [
        mlp_regressor(1, hidden=(3,), prior=NormalPrior(1.0), likelihood=0.1, seed=seed)
        for seed in (0, 1)
    ]
    ours, theirs = (Posterior(Delta(model)) for model in models)
    ensembles.check_equal(ours, ours)
    with pytest.raises(RuntimeError, match="depend on the number of processes"):
        ensembles.check_equal(ours, theirs)


def test_the_page_has_the_markers(ensembles):
    text = importlib.import_module("report").PAGE.read_text("utf-8")
    assert text.index("<!-- ensembles: begin -->") < text.index("<!-- ensembles: end -->")
