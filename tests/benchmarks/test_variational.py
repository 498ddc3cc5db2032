"""The benchmark of mean-field inference: its checks, its aims, and what it says without peers."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
from click.testing import CliRunner

from probml_tp import MeanFieldNormal

pytestmark = pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning")
SCALES = {"prior_scale": 1.0, "init_scale": 0.01}


@pytest.fixture
def bench(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("variational")


@pytest.fixture
def peer_class(bench):
    """Bayes by backprop by hand, in the place of a library."""
    by_hand = importlib.import_module("peers").BayesByBackprop

    class ByHand(by_hand):
        def loss(self, x, y, *, size):
            self.drawn = []
            outputs, kl = self(x, self.draw_noise)
            return torch.nn.functional.cross_entropy(outputs, y) + kl / size

        def draw_noise(self, like):
            self.drawn.append(torch.randn_like(like).flatten())
            return self.drawn[-1].view_as(like)

        def noise(self):
            return torch.cat(self.drawn)

    return ByHand


@pytest.fixture
def digits(bench):
    return bench.load_digits(8, None)


def test_losses_are_compared_at_equal_draws(bench, peer_class, digits):
    model = bench.lenet_model()
    guide, peer = MeanFieldNormal(model, init_scale=0.01), peer_class(model.net, **SCALES)
    bench.check_bayesian_torch(guide, peer, digits.x, digits.y, 80)


def test_losses_that_differ_are_refused(bench, peer_class, digits):
    model = bench.lenet_model()
    guide = MeanFieldNormal(model, init_scale=0.01)
    peer = peer_class(model.net, prior_scale=1.01, init_scale=0.01)
    with pytest.raises(RuntimeError, match="losses differ"):
        bench.check_bayesian_torch(guide, peer, digits.x, digits.y, 80)


def test_another_number_of_parameters_is_refused(bench):
    guide = MeanFieldNormal(bench.lenet_model())
    with pytest.raises(RuntimeError, match="numbers of parameters differ: 131116 and 6"):
        bench.check_sizes(guide, torch.nn.Linear(2, 2))


def test_each_of_ours_is_held_to_the_fastest_peer(bench):
    timing = importlib.import_module("timing")
    seconds = {"ours, flipout": [1.0], "ours, other": [3.0], "peer": [2.0], "slow peer": [9.0]}
    good, bad = bench.verdicts(timing.Comparison("step", seconds))
    assert "ours, flipout takes 0.50 times the step of peer, the fastest peer" in good
    assert good.endswith("met.")
    assert "ours, other takes 1.50 times" in bad
    assert bad.endswith("**missed**.")


@pytest.mark.skipif(
    importlib.util.find_spec("bayesian_torch") is not None, reason="the peers are installed"
)
def test_without_peers_it_says_what_to_install(bench):
    result = CliRunner().invoke(bench.main, ["--quick"])
    assert result.exit_code == 1
    assert "measures against bayesian_torch" in result.output
    assert "pip install -e . -r benchmarks/requirements.txt" in result.output


def test_a_tiny_run_reports_every_contender(bench):
    pytest.importorskip("bayesian_torch")
    pytest.importorskip("torch_uncertainty")
    text = bench.run(bench.Size(rounds=1, steps=1, batch=8, repeats=5), None)
    for name in ("bayesian-torch Flipout, Adam", "torch-uncertainty, fused Adam"):
        assert f"| {name} |" in text
    assert text.count("(aim: at most 1.1)") == 3
