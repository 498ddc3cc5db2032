"""Every structure of Laplace against laplace-torch: the same mode, data and prior."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_cases import CASES, Case, random_flat
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from probml_tp import Bernoulli, Categorical, Gaussian, LinearizedLaplace, Posterior

CLOSE = {"rtol": 1e-4, "atol": 1e-8}
STRUCTURES = {"full": "full", "kronecker": "kron", "diagonal": "diag"}

Peer = Callable[..., Any]


@pytest.fixture(scope="module")
def peer() -> Peer:
    """laplace-torch's ``Laplace``; libraries that it imports still use torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from laplace import Laplace
    return Laplace


pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


def case_at_a_point(name: str) -> tuple[Case, Tensor]:
    case = CASES[name]()
    flat = random_flat(case.model, seed=2, scale=0.6)
    return Case(case.model, *case.model.check_data(case.x, case.y)), flat


def ours(case: Case, flat: Tensor, **options: Any) -> LinearizedLaplace:
    guide = LinearizedLaplace(case.model, **options)
    guide.loc.data = flat.clone()
    guide.prepare(case.x, case.y)
    guide.take_curvature(case.x, case.y)
    return guide


def theirs(peer: Peer, case: Case, flat: Tensor, structure: str, subset: str, **more: Any) -> Any:
    """laplace-torch on the same net, one prior precision for each tensor."""
    net = copy.deepcopy(case.model.net).requires_grad_(True)
    for name, value in case.model.layout.unravel(flat).items():
        net.get_parameter(name).data = value.clone()
    regression = isinstance(case.model.likelihood, Gaussian)
    if regression:
        more["sigma_noise"] = float(case.model.likelihood.scale)
    la = peer(
        net,
        "regression" if regression else "classification",
        subset_of_weights=subset,
        hessian_structure=structure,
        **more,
    )
    y = case.y.reshape(case.size, -1) if regression else case.y
    la.fit(DataLoader(TensorDataset(case.x, y), batch_size=4))
    return la


def prior_precisions(case: Case) -> Tensor:
    """The prior precision of each tensor, the same within it."""
    sites = case.model.sites.values()
    return torch.stack([site.elementwise().stddev.flatten()[0] ** -2 for site in sites])


def precision_matrix(la: Any) -> Tensor:
    precision = la.posterior_precision
    if isinstance(precision, Tensor):
        return precision.diag() if precision.ndim == 1 else precision
    return precision.to_matrix()


def check_predictions(guide: LinearizedLaplace, case: Case, la: Any) -> None:
    mean, covariance = guide.linearized_moments(case.x)
    their_mean, their_covariance = la._glm_predictive_distribution(case.x)
    torch.testing.assert_close(mean, their_mean.detach(), **CLOSE)
    torch.testing.assert_close(covariance, their_covariance.detach(), **CLOSE)
    if isinstance(case.model.likelihood, Categorical):
        for link, name in (("probit", "probit"), ("laplace-bridge", "bridge")):
            predicted = Posterior(guide).predict(case.x, link=link)
            probs = la(case.x, pred_type="glm", link_approx=name)
            torch.testing.assert_close(predicted.probs, probs, **CLOSE)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["mlp", "mlp-2-targets", "classifier-3", "lenet-small", "softmax"])
def test_all_weights(peer: Peer, name: str, structure: str) -> None:
    case, flat = case_at_a_point(name)
    guide = ours(case, flat, structure=structure)
    la = theirs(peer, case, flat, STRUCTURES[structure], "all")
    la.prior_precision = prior_precisions(case)
    expected = precision_matrix(la).detach()
    precision = torch.linalg.inv(guide.covariance())
    torch.testing.assert_close(precision, expected, rtol=1e-4, atol=1e-7)
    evidence = float(la.log_marginal_likelihood())
    assert guide.log_evidence() == pytest.approx(evidence, rel=1e-6)
    check_predictions(guide, case, la)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        (name, structure)
        for name in ("mlp", "classifier-3", "lenet-small")
        for structure in STRUCTURES
        if (name, structure) != ("classifier-3", "kronecker")  # the peer takes one scalar there
    ],
)
def test_the_last_layer(peer: Peer, name: str, structure: str) -> None:
    case, flat = case_at_a_point(name)
    guide = ours(case, flat, structure=structure, sites="last-layer")
    la = theirs(peer, case, flat, STRUCTURES[structure], "last_layer")
    precisions = prior_precisions(case)[-2:]
    sizes = [case.model.layout.shapes[n].numel() for n in guide.random_sites]
    one = structure == "kronecker"
    la.prior_precision = (
        precisions[:1] if one else precisions.repeat_interleave(torch.tensor(sizes))
    )
    covariance = guide.covariance()[-sum(sizes) :, -sum(sizes) :]
    torch.testing.assert_close(
        torch.linalg.inv(covariance), precision_matrix(la).detach(), rtol=1e-4, atol=1e-7
    )
    assert guide.log_evidence() == pytest.approx(float(la.log_marginal_likelihood()), rel=1e-6)
    check_predictions(guide, case, la)


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_a_chosen_set_of_parameters(peer: Peer, structure: str) -> None:
    case, flat = case_at_a_point("mlp")
    chosen = ["fc1.weight", "fc3.*"]
    guide = ours(case, flat, structure=structure, sites=chosen)
    places = torch.arange(case.model.num_params)
    slices = case.model.layout.slices
    index = torch.cat([places[slices[n]] for n in guide.random_sites])
    la = theirs(peer, case, flat, STRUCTURES[structure], "subnetwork", subnetwork_indices=index)
    la.prior_precision = prior_precisions(case)[:1]  # one scale for all weights in this model
    covariance = guide.covariance()[index][:, index]
    torch.testing.assert_close(
        torch.linalg.inv(covariance), precision_matrix(la).detach(), rtol=1e-4, atol=1e-7
    )
    mean, variance = guide.linearized_moments(case.x)
    their_mean, their_variance = la._glm_predictive_distribution(case.x)
    torch.testing.assert_close(mean, their_mean.detach(), **CLOSE)
    torch.testing.assert_close(variance, their_variance.detach(), **CLOSE)


def test_binary_labels_are_two_classes(peer: Peer) -> None:
    """Bernoulli with one logit against the peer's softmax over (0, f)."""
    case, flat = case_at_a_point("classifier-2")
    assert isinstance(case.model.likelihood, Bernoulli)
    guide = ours(case, flat)

    class TwoLogits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(case.model.net).requires_grad_(True)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pad(self.net(x), (1, 0))

    module = TwoLogits()
    for name, value in case.model.layout.unravel(flat).items():
        module.net.get_parameter(name).data = value.clone()
    la = peer(module, "classification", subset_of_weights="all", hessian_structure="full")
    la.fit(DataLoader(TensorDataset(case.x, case.y.long()), batch_size=5))
    la.prior_precision = prior_precisions(case)
    precision = torch.linalg.inv(guide.covariance())
    torch.testing.assert_close(precision, la.posterior_precision.detach(), rtol=1e-4, atol=1e-7)
    assert guide.log_evidence() == pytest.approx(float(la.log_marginal_likelihood()), rel=1e-6)
