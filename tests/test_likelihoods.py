"""Likelihoods: densities against Pyro's and SciPy's, Fisher information against autograd."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from probml_tp import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian
from probml_tp.likelihoods import Likelihood

F64 = torch.float64
NOISE = {"noise_scale": torch.tensor(0.7, dtype=F64)}

LIKELIHOODS: dict[str, tuple[Likelihood, int, dict[str, Tensor]]] = {
    "known": (Gaussian(0.4).double(), 1, {}),
    "known-2": (Gaussian(0.4).double(), 2, {}),
    "noise": (Gaussian(dist.HalfNormal(1.0)).double(), 1, NOISE),
    "noise-2": (Gaussian(dist.Gamma(2.0, 2.0)).double(), 2, NOISE),
    "heteroscedastic": (HeteroscedasticGaussian(min_scale=0.05), 2, {}),
    "heteroscedastic-2": (HeteroscedasticGaussian(), 4, {}),
    "bernoulli": (Bernoulli(), 1, {}),
    "categorical": (Categorical(4), 4, {}),
}


@pytest.fixture(params=LIKELIHOODS)
def entry(request: pytest.FixtureRequest) -> tuple[Likelihood, Tensor, dict[str, Tensor]]:
    likelihood, k, params = LIKELIHOODS[request.param]
    outputs = torch.randn(6, k, generator=torch.Generator().manual_seed(0), dtype=F64)
    return likelihood, outputs, params


def test_log_density_equals_the_distributions(
    entry: tuple[Likelihood, Tensor, dict[str, Tensor]],
) -> None:
    likelihood, outputs, params = entry
    distribution = likelihood.distribution(outputs, params)
    assert distribution.batch_shape == (6,)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = likelihood.check_targets(distribution.sample(), outputs.shape)
    y = y.to(F64) if y.is_floating_point() else y
    ours = likelihood.log_prob(outputs, y, params)
    torch.testing.assert_close(ours, distribution.log_prob(y).to(F64), rtol=1e-12, atol=1e-12)


def test_draws_in_front_give_the_same_density_draw_by_draw(
    entry: tuple[Likelihood, Tensor, dict[str, Tensor]],
) -> None:
    """As many draws as points: nothing is broadcast the wrong way."""
    likelihood, outputs, params = entry
    scales = torch.linspace(0.5, 1.5, 6, dtype=F64)
    many = torch.stack([outputs + s for s in scales])
    stacked = {n: v * scales for n, v in params.items()}
    y = likelihood.check_targets(likelihood.distribution(outputs, params).sample(), outputs.shape)
    together = likelihood.log_prob(many, y, stacked)
    wide = likelihood.distribution(many, stacked)
    assert wide.batch_shape == (6, 6)
    for s in range(6):
        own = {n: v[s] for n, v in stacked.items()}
        torch.testing.assert_close(together[s], likelihood.log_prob(many[s], y, own))
        expected = likelihood.distribution(many[s], own).log_prob(y)
        torch.testing.assert_close(wide.log_prob(y)[s], expected)
    if hasattr(likelihood, "moments"):
        mean, variance = likelihood.moments(many, stacked)
        for s in range(6):
            own = {n: v[s] for n, v in stacked.items()}
            for whole, part in zip((mean, variance), likelihood.moments(many[s], own), strict=True):
                torch.testing.assert_close(whole[s], part)


def _outcomes(likelihood: Likelihood, outputs: Tensor, params: dict[str, Tensor]) -> list[tuple]:
    """All outcomes with their probabilities; for normals Gauss-Hermite, exact to degree 9."""
    if isinstance(likelihood, Bernoulli | Categorical):
        probs = likelihood.log_probs(outputs).exp()[0]
        kind = F64 if isinstance(likelihood, Bernoulli) else torch.long
        return [(torch.tensor([c], dtype=kind), float(p)) for c, p in enumerate(probs)]
    mean, variance = likelihood.moments(outputs, params)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    grid = np.array(np.meshgrid(*[range(5)] * mean.shape[-1])).reshape(mean.shape[-1], -1).T
    result = []
    for index in grid:
        z = torch.tensor(nodes[index], dtype=F64)
        y = mean + z * variance.sqrt()
        y = y.squeeze(-1) if y.shape[-1] == 1 else y
        result.append((y, math.prod(weights[index]) / math.sqrt(2 * math.pi) ** len(index)))
    return result


def test_fisher_is_the_expected_hessian_of_autograd(
    entry: tuple[Likelihood, Tensor, dict[str, Tensor]],
) -> None:
    """By enumeration of the labels, or by quadrature that is exact for these polynomials."""
    likelihood, outputs, params = entry
    k = outputs.shape[-1]
    for n in range(len(outputs)):
        row = outputs[n : n + 1]
        g = likelihood.natural_inputs(row, params)[0]

        def negative_log_prob(g: Tensor, y: Tensor) -> Tensor:
            own = {"noise_scale": g[k]} if params else {}
            return -likelihood.log_prob(g[None, :k], y, own)[0]

        expected = sum(
            p * jacrev(grad(negative_log_prob))(g, y) for y, p in _outcomes(likelihood, row, params)
        )
        fisher = likelihood.fisher(row, params)[0]
        torch.testing.assert_close(fisher, expected, rtol=1e-9, atol=1e-10)


def test_natural_inputs_begin_with_the_outputs(
    entry: tuple[Likelihood, Tensor, dict[str, Tensor]],
) -> None:
    likelihood, outputs, params = entry
    g = likelihood.natural_inputs(outputs, params)
    assert torch.equal(g[:, : outputs.shape[-1]], outputs)
    assert likelihood.fisher(outputs, params).shape == (6, g.shape[-1], g.shape[-1])


def test_moments_are_the_distributions() -> None:
    for name in ("known", "known-2", "noise", "noise-2", "heteroscedastic", "heteroscedastic-2"):
        likelihood, k, params = LIKELIHOODS[name]
        outputs = torch.randn(5, k, generator=torch.Generator().manual_seed(1), dtype=F64)
        mean, variance = likelihood.moments(outputs, params)
        distribution = likelihood.distribution(outputs, params)
        torch.testing.assert_close(mean.squeeze(-1), distribution.mean)
        torch.testing.assert_close(variance.squeeze(-1), distribution.variance)


def test_class_probabilities_stay_exact_at_extreme_logits() -> None:
    logits = torch.tensor([[800.0], [-800.0]], dtype=F64)
    log_probs = Bernoulli().log_probs(logits)
    torch.testing.assert_close(log_probs, torch.tensor([[-800.0, 0], [0, -800.0]], dtype=F64))
    assert Bernoulli().log_prob(logits, torch.tensor([0, 1]), {}).tolist() == [-800.0, -800.0]
    wide = Categorical(3).log_probs(torch.tensor([[1000.0, 0.0, -1000.0]], dtype=F64))
    assert wide.tolist() == [[0.0, -1000.0, -2000.0]]


# ------------------------------------------------------------------------------ noise priors


@pytest.mark.parametrize(
    "prior",
    [
        dist.HalfNormal(1.0),
        dist.HalfCauchy(1.0),
        dist.LogNormal(0.0, 1.0),
        dist.Gamma(2.0, 1.0),
        dist.InverseGamma(2.0, 1.0),
        dist.Exponential(1.0),
        dist.Uniform(0.1, 0.5),
        dist.Uniform(0.0, 2.0),
    ],
    ids=lambda d: type(d).__name__,
)
def test_priors_on_the_positive_reals_are_accepted(prior: dist.Distribution) -> None:
    assert list(Gaussian(prior).site_distributions()) == ["noise_scale"]


@pytest.mark.parametrize(
    "prior",
    [dist.Normal(0.0, 1.0), dist.Uniform(-0.5, 2.0), dist.Gumbel(0.0, 1.0), dist.Poisson(2.0)],
    ids=lambda d: type(d).__name__,
)
def test_priors_that_allow_negative_noise_are_refused(prior: dist.Distribution) -> None:
    with pytest.raises(ValueError, match=type(prior).__name__):
        Gaussian(prior)


def test_noise_priors_must_be_scalar() -> None:
    with pytest.raises(ValueError, match=r"noise_scale.*\(2,\)"):
        Gaussian(dist.HalfNormal(torch.ones(2)))


@pytest.mark.parametrize("scale", [0.0, -0.1, math.nan, math.inf, "0.1", None])
def test_noise_must_be_positive(scale: object) -> None:
    with pytest.raises(ValueError, match="scale"):
        Gaussian(scale)
    with pytest.raises(ValueError, match="min_scale"):
        HeteroscedasticGaussian(min_scale=scale)


@pytest.mark.parametrize("scale", [np.float32(0.5), np.float64(0.5), 1], ids=["f32", "f64", "int"])
def test_numpys_numbers_are_numbers(scale: object) -> None:
    assert Gaussian(scale).scale.item() == float(scale)


@pytest.mark.parametrize("classes", [1, 0, -2, 2.5, True])
def test_categorical_needs_two_classes(classes: object) -> None:
    with pytest.raises(ValueError, match=str(classes)):
        Categorical(classes)


# ------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32, torch.float32, F64])
def test_labels_of_any_numeric_type_are_taken(kind: torch.dtype) -> None:
    y = torch.tensor([0, 1, 1, 0]).to(kind)
    assert Bernoulli().check_targets(y, torch.Size([4, 1])).tolist() == [0, 1, 1, 0]
    assert Categorical(2).check_targets(y, torch.Size([4, 2])).tolist() == [0, 1, 1, 0]
    assert Categorical(2).check_targets(y[:, None], torch.Size([4, 2])).dtype == torch.long


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 3, 3], r"0 to 2; 2 of 4 are not, the first is y\[2\] = 3"),
        ([-1, 1, 0, 0], r"y\[0\] = -1"),
        ([0.5, 1, 0, 0], r"y\[0\] = 0\.5"),
        ([[1, 0, 0]] * 4, r"got \(4, 3\).*one-hot"),
    ],
)
def test_labels_out_of_range_are_refused(y: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Categorical(3).check_targets(torch.tensor(y), torch.Size([4, 3]))


def test_targets_of_regression_take_their_canonical_shape() -> None:
    one = torch.Size([4, 1])
    assert Gaussian(1.0).check_targets(torch.zeros(4, 1), one).shape == (4,)
    assert Gaussian(1.0).check_targets(torch.zeros(4, dtype=torch.long), one).is_floating_point()
    assert Gaussian(1.0).check_targets(torch.zeros(4, 2), torch.Size([4, 2])).shape == (4, 2)
    two = torch.Size([4, 2])
    assert HeteroscedasticGaussian().check_targets(torch.zeros(4, 1), two).shape == (4,)
    for likelihood, shape, outputs in (
        (Gaussian(1.0), (4, 2), one),
        (Gaussian(1.0), (4,), two),
        (Gaussian(1.0), (4, 1, 1), one),
        (HeteroscedasticGaussian(), (4, 2), two),
    ):
        with pytest.raises(ValueError, match="y must have shape"):
            likelihood.check_targets(torch.zeros(shape), outputs)


def test_an_odd_number_of_outputs_is_no_mean_and_scale() -> None:
    with pytest.raises(ValueError, match=r"two outputs \(mean and scale\) per target.*has 3"):
        HeteroscedasticGaussian().check_outputs(torch.Size([4, 3]))


# --------------------------------------------------------------------------- numbers of any type

NUMBERS = {
    "tensor": torch.tensor(0.25),
    "one element": torch.tensor([[0.25]]),
    "requires grad": torch.tensor(0.25, requires_grad=True),
    "numpy scalar": np.float32(0.25),
    "array": np.array(0.25),
}


@pytest.mark.parametrize("scale", NUMBERS.values(), ids=NUMBERS)
def test_a_known_scale_is_a_number_of_any_type(scale: float) -> None:
    likelihood = Gaussian(scale=scale)
    assert likelihood.describe() == "Gaussian(scale=0.25)"
    assert likelihood.double().scale.item() == 0.25
    assert not likelihood.scale.requires_grad
    assert Gaussian.from_precision(scale).scale.item() == pytest.approx(2.0)
    assert HeteroscedasticGaussian(min_scale=scale).min_scale == 0.25


def test_torchs_distributions_are_noise_priors() -> None:
    likelihood = Gaussian(torch.distributions.HalfNormal(1.0))
    assert likelihood.describe() == Gaussian(dist.HalfNormal(1.0)).describe()


@pytest.mark.parametrize(
    "scale", [torch.ones(3), "a", None, [0.1], True, torch.tensor(True), math.nan, len]
)
def test_what_is_no_scale_is_refused(scale: object) -> None:
    with pytest.raises(ValueError, match=r"Gaussian.scale must be a positive"):
        Gaussian(scale)  # type: ignore[arg-type]


def test_a_number_of_classes_may_be_a_tensor() -> None:
    assert Categorical(torch.tensor(3)).num_classes == 3
    with pytest.raises(ValueError, match="at least two classes"):
        Categorical(np.int64(1))
