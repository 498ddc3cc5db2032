"""Structures and kinds of Laplace's curvature, each against a matrix made another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from guide_cases import NO_KRONECKER, ONE_LAYER
from model_cases import (
    CASES,
    F64,
    HIERARCHICAL,
    LENET,
    NO_CURVATURE,
    Case,
    inputs,
    labels,
    random_flat,
    targets,
)
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Gaussian,
    Laplace,
    LinearizedLaplace,
    NormalPrior,
    Posterior,
    elbo,
    fit,
)
from probml_tp.guides.curvature import DenseCurvature, DiagonalCurvature, KroneckerCurvature
from probml_tp.guides.factors import DenseFactor, DiagonalFactor, KroneckerFactor
from probml_tp.guides.fisher import generalised_gauss_newton, likelihood_curvature, prior_precision
from probml_tp.models import mlp
from probml_tp.streams import seeded

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y))


def fitted(case: Case, kind: type[Laplace] = Laplace, **options: Any) -> Laplace:
    guide = kind(case.model, **options)
    guide.loc.data = random_flat(case.model, seed=2)
    guide.prepare(case.x, case.y)
    guide.take_curvature(case.x, case.y)
    return guide


def full_precision(case: Case) -> Tensor:
    flat = random_flat(case.model, seed=2)
    precision = generalised_gauss_newton(case.model, flat, case.x)
    return precision + prior_precision(case.model, flat).diag()


# ---------------------------------------------------------------------------------- structures


@pytest.mark.parametrize("name", [n for n in CASES if n not in (*HIERARCHICAL, *NO_CURVATURE)])
def test_the_diagonal_is_that_of_the_whole_matrix(name: str) -> None:
    case = checked(name)
    guide = fitted(case, structure="diagonal")
    expected = full_precision(case).diagonal()
    torch.testing.assert_close(guide.covariance(), (1 / expected).diag(), **CLOSE)
    ours = case.model.layout.ravel(guide.marginal_variance())
    torch.testing.assert_close(ours, 1 / expected, **CLOSE)


@pytest.mark.parametrize("sites", [["fc1.*"], ["fc2.bias", "fc1.weight"], ["*.bias"]])
def test_chosen_sites_are_a_block_and_the_others_stay(sites: list[str]) -> None:
    case = checked("mlp")
    guide = fitted(case, sites=sites)
    places = case.model.layout.slices
    index = torch.cat([torch.arange(10**4)[places[n]] for n in guide.random_sites])
    block = torch.linalg.inv(full_precision(case)[index][:, index])
    covariance = guide.covariance()
    torch.testing.assert_close(covariance[index][:, index], block, **CLOSE)
    assert int(covariance.count_nonzero()) == int(block.count_nonzero())
    draws = guide.sample(3, generator=torch.Generator().manual_seed(0))
    fixed = set(case.model.sites) - set(guide.random_sites)
    assert guide.constant_sites == fixed
    values = case.model.layout.unravel(guide.loc.detach())
    for name in fixed:
        assert torch.equal(draws[name], values[name].expand(3, *values[name].shape))
    assert guide.no_density is not None
    elsewhere = {**draws, next(iter(fixed)): draws[next(iter(fixed))] + 1}
    assert bool(torch.isfinite(guide.log_prob(draws)).all())
    assert bool((guide.log_prob(elsewhere) == -torch.inf).all())
    with pytest.raises(ValueError, match="point mass in"):
        elbo(Posterior(guide), case.x, case.y)


@pytest.mark.parametrize("name", ["residual", "mlp", "lenet-small", "mlp-half-normal"])
def test_the_last_layer_is_the_module_registered_last(name: str) -> None:
    guide = Laplace(CASES[name]().model, sites="last-layer")
    expected = {"residual": ["head.weight"], "lenet-small": ["fc2.weight", "fc2.bias"]}
    assert guide.random_sites == expected.get(name, ["fc3.weight", "fc3.bias"])
    assert name not in ONE_LAYER


def test_kronecker_factors_are_exact_for_one_point() -> None:
    """Then the block of a linear layer's weights is an outer product, whatever the net."""
    case = checked("classifier-3")
    one = Case(case.model, case.x[:1], case.y[:1])
    flat = random_flat(case.model, seed=2)
    guide = Laplace(case.model, structure="kronecker")
    found = likelihood_curvature(
        case.model, flat, one.x, one.y, factors=guide.factor_list, kind="ggn"
    )
    whole = generalised_gauss_newton(case.model, flat, one.x)
    for factor, curvature in zip(guide.factor_list, found, strict=True):
        block = whole[factor.index][:, factor.index]
        if isinstance(curvature, KroneckerCurvature):
            left, right = (
                u @ v.diag() @ u.mT
                for u, v in ((curvature.left, curvature.b), (curvature.right, curvature.a))
            )
            torch.testing.assert_close(torch.kron(left, right), block, **CLOSE)
        else:
            assert isinstance(curvature, DenseCurvature)
            torch.testing.assert_close(curvature.matrix, block, **CLOSE)


@pytest.mark.parametrize(
    "name", [n for n in CASES if n not in (*HIERARCHICAL, *NO_KRONECKER, *NO_CURVATURE)]
)
def test_kronecker_factors_where_there_are_layers_and_the_diagonal_elsewhere(name: str) -> None:
    case = checked(name)
    guide = fitted(case, structure="kronecker")
    exact = 1 / full_precision(case).diagonal()
    kinds = {n: type(f) for f in guide.factor_list for n in f.sites}
    assert set(kinds) == set(case.model.sites)
    for factor in guide.factor_list:
        if isinstance(factor, DiagonalFactor):
            torch.testing.assert_close(factor.variance, exact[factor.index], **CLOSE)
    modules = case.model.net.named_modules()
    layers = {f"{n}.weight".lstrip(".") for n, m in modules if type(m) is nn.Linear}
    if name not in ("tied", "positive-weights"):
        assert {n for n in layers if kinds[n] is KroneckerFactor} == layers


def test_the_order_of_kronecker_factors_does_not_matter_for_the_program() -> None:
    """The noise site and the layer norm are in one factor that is not contiguous."""
    case = checked("residual")
    guide = fitted(case, structure="kronecker")
    draws = guide.sample(2, generator=torch.Generator().manual_seed(0))
    assert list(draws) == list(case.model.sites)
    (rest,) = (f for f in guide.factor_list if isinstance(f, DiagonalFactor))
    assert {"gain", "inner.1.weight", "inner.1.bias"} == set(rest.sites)
    assert all(isinstance(f, DenseFactor | KroneckerFactor | DiagonalFactor)
               for f in guide.factor_list)  # fmt: skip


@pytest.mark.parametrize("structure", ["kronecker", "diagonal", "full"])
def test_evidence_is_the_gaussian_integral(structure: str) -> None:
    case = checked("lenet-small")
    guide = fitted(case, structure=structure)
    flat = guide.loc.detach()
    log_det = torch.logdet(guide.covariance())
    size = len(flat)
    joint = case.model.log_joint_flat(flat, case.x, case.y)
    value = joint + 0.5 * (size * torch.log(torch.tensor(2 * torch.pi, dtype=F64)) + log_det)
    assert guide.log_evidence() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("structure", ["kronecker", "diagonal", "full"])
def test_batches_of_points_add_up(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from probml_tp.guides import fisher, jacobians

    case = checked("lenet-small")
    whole = fitted(case, structure=structure).covariance()
    monkeypatch.setattr(jacobians, "MAX_ELEMENTS", 3000)
    monkeypatch.setattr(fisher, "BATCH", 4)
    torch.testing.assert_close(fitted(case, structure=structure).covariance(), whole, **CLOSE)


@pytest.mark.parametrize("structure", ["kronecker", "diagonal"])
def test_a_full_size_lenet_fits_and_predicts(structure: str) -> None:
    case = LENET()
    guide = LinearizedLaplace(case.model, structure=structure)
    guide.take_curvature(*case.model.check_data(case.x, case.y))
    mean, covariance = guide.linearized_moments(case.x)
    assert covariance.shape == (3, 10, 10)
    assert bool((torch.linalg.eigvalsh(covariance) > 0).all())
    params = case.model.layout.unravel(guide.loc.detach())
    torch.testing.assert_close(mean, case.model.outputs(params, case.x), **CLOSE)


@pytest.mark.parametrize("structure", ["full", "kronecker", "diagonal"])
@pytest.mark.parametrize("sites", ["all", "last-layer", ["fc1.weight"]])
@pytest.mark.parametrize("name", ["classifier-3", "lenet-small"])
def test_function_covariance_is_jacobian_covariance_jacobian(
    name: str, sites: Any, structure: str
) -> None:
    case = checked(name)
    guide = fitted(case, LinearizedLaplace, structure=structure, sites=sites)
    unravel = case.model.layout.unravel
    jacobian = jacrev(lambda u: case.model.outputs(unravel(u), case.x))(guide.loc.detach())
    expected = jacobian @ guide.covariance() @ jacobian.mT
    _, ours = guide.linearized_moments(case.x)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------------------- kinds of curvature


def per_point_gradients(case: Case, flat: Tensor, y: Tensor) -> Tensor:
    """``(N, P)``, one point after the other."""

    def log_likelihood(u: Tensor, x_n: Tensor, y_n: Tensor) -> Tensor:
        params = case.model.constrain(case.model.layout.unravel(u))
        return case.model.log_likelihood(params, x_n.unsqueeze(0), y_n.unsqueeze(0)).sum()

    return vmap(grad(log_likelihood), in_dims=(None, 0, 0))(flat, case.x, y)


@pytest.mark.parametrize(
    "name", ["mlp", "mlp-half-normal", "mlp-heteroscedastic", "classifier-3", "lenet-small", "tied"]
)
@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_empirical_fisher_is_the_sum_of_outer_products(name: str, structure: str) -> None:
    case = checked(name)
    guide = fitted(case, curvature="empirical-fisher", structure=structure)
    flat = guide.loc.detach()
    gradients = per_point_gradients(case, flat, case.y)
    expected = gradients.mT @ gradients + prior_precision(case.model, flat).diag()
    precision = torch.linalg.inv(guide.covariance())
    if structure == "diagonal":
        expected = expected.diagonal().diag()
    torch.testing.assert_close(precision, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["empirical-fisher", "mc-fisher"])
@pytest.mark.parametrize(
    "name", ["mlp", "classifier-2", "classifier-3", "mlp-2-targets", "mlp-heteroscedastic"]
)
def test_kronecker_factors_of_other_kinds_are_exact_for_one_point(name: str, kind: str) -> None:
    """For each likelihood."""
    case = checked(name)
    one = Case(case.model, case.x[:1], case.y[:1])
    flat = random_flat(case.model, seed=2)
    guide = Laplace(case.model, structure="kronecker")
    total = torch.zeros(case.model.num_params, dtype=F64)
    repeats = 1 if kind == "empirical-fisher" else 300
    values = []
    with seeded(0):
        for _ in range(repeats):
            found = likelihood_curvature(
                case.model, flat, one.x, one.y, factors=guide.factor_list, kind=kind
            )
            for factor, curvature in zip(guide.factor_list, found, strict=True):
                if isinstance(curvature, KroneckerCurvature):
                    left = curvature.left.square() @ curvature.b
                    right = curvature.right.square() @ curvature.a
                    total[factor.index] = torch.outer(left, right).flatten()
                elif isinstance(curvature, DenseCurvature):
                    total[factor.index] = curvature.matrix.diagonal()
            values.append(total.clone())
    if kind == "empirical-fisher":
        expected = per_point_gradients(one, flat, one.y).square().sum(0)
        torch.testing.assert_close(values[0], expected, **CLOSE)
        return
    each = torch.stack(values)
    expected = generalised_gauss_newton(case.model, flat, one.x).diagonal()
    error = each.std(0) / repeats**0.5
    assert bool(((each.mean(0) - expected).abs() <= 5 * error + 1e-12).all())


@pytest.mark.parametrize("name", ["mlp-half-normal", "classifier-3"])
def test_mc_fisher_estimates_the_fisher_information(name: str) -> None:
    case = checked(name)
    flat = random_flat(case.model, seed=2)
    factor = DiagonalFactor(case.model, list(case.model.sites))
    with seeded(0):
        each = torch.stack([
            _diagonal(likelihood_curvature(case.model, flat, case.x, case.y, factors=[factor],
                                           kind="mc-fisher")[0])
            for _ in range(400)
        ])  # fmt: skip
    expected = generalised_gauss_newton(case.model, flat, case.x).diagonal()
    error = each.std(0) / len(each) ** 0.5
    assert bool((error > 0).any())
    assert bool(((each.mean(0) - expected).abs() <= 5 * error + 1e-12).all())


def _diagonal(curvature: object) -> Tensor:
    assert isinstance(curvature, DiagonalCurvature)
    return curvature.diagonal


def test_empirical_fisher_is_not_the_fisher_information() -> None:
    """Negative control: on a perfect fit the one vanishes and the other does not."""
    x = inputs(20, 2)
    model = BayesianModel(nn.Linear(2, 1).double(), NormalPrior(1.0), Gaussian(0.3))
    flat = random_flat(model)
    y = model.outputs(model.layout.unravel(flat), x).squeeze(-1)
    factors = [DenseFactor(model, list(model.sites))]
    empirical, ggn = (
        likelihood_curvature(model, flat, x, y, factors=factors, kind=kind)[0].matrix
        for kind in ("empirical-fisher", "ggn")
    )
    assert empirical.abs().max() < 1e-20
    assert ggn.diagonal().min() > 1


def test_the_hessian_of_chosen_sites_is_a_block_of_the_whole() -> None:
    case = checked("mlp")
    mode = fit(case.model, Delta, (case.x, case.y), epochs=30, optimizer="lbfgs", progress=False)
    sites, data = ["fc3.*"], (case.x, case.y)
    guide = Laplace(case.model, curvature="hessian", sites=sites)
    guide.loc.data = mode.guide.loc.data
    guide.finalize(*data)
    loc = guide.loc.detach()
    whole = -jacrev(grad(lambda u: case.model.log_joint_flat(u, *data)))(loc)
    index = guide.factor_list[0].index
    torch.testing.assert_close(
        torch.linalg.inv(guide.covariance()[index][:, index]), whole[index][:, index], **CLOSE
    )


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"structure": "kfac"}, r"structure must be one of 'full', 'kronecker', 'diagonal'; got"),
        ({"curvature": "fisher"}, r"curvature must be one of 'ggn'"),
        ({"curvature": "hessian", "structure": "diagonal"}, "full structure only; got 'diagonal'"),
        ({"sites": ["fc9.*"]}, r"'fc9\.\*' matches none. They are fc1.weight"),
        ({"sites": []}, "at least one site"),
        ({"structure": "kronecker", "max_params": 3}, "takes at most 3 parameters"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Laplace(CASES["mlp"]().model, **options)


def test_kronecker_factors_need_one_prior_precision_a_layer() -> None:
    with pytest.raises(ValueError, match=r"same prior precision for all weights.*fc1\.weight"):
        fitted(checked("mlp-heavy-tails"), structure="kronecker")


def test_kronecker_factors_need_layers_called_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))

    x = inputs(6, 2)
    model = BayesianModel(Twice().double(), NormalPrior(1.0), Categorical(3))
    case = Case(model, *model.check_data(x, labels(x, 3)))
    with pytest.raises(ValueError, match=r"called once in a forward pass.*'layer' is not"):
        fitted(case, structure="kronecker")
    fitted(case, structure="diagonal")


def test_an_unfitted_or_structured_guide_says_what_it_lacks() -> None:
    case = checked("mlp")
    for ask in ("covariance", "marginal_variance", "log_evidence", "kl"):
        with pytest.raises(ValueError, match="no covariance before it is fitted"):
            getattr(Laplace(case.model, structure="kronecker"), ask)()
    with pytest.raises(ValueError, match=r"scale_tril needs a full covariance.*6 factors"):
        _ = fitted(case, structure="kronecker").scale_tril


# ---------------------------------------------------------------------------------- it is useful


def test_structures_order_as_they_should_on_a_conjugate_problem() -> None:
    """Full Laplace is exact for a linear model; each simplification lowers the ELBO."""
    x = inputs(30, 3)
    model = BayesianModel(nn.Linear(3, 1).double(), NormalPrior(1.0), Gaussian(0.3))
    data = (x @ torch.ones(3, dtype=F64) + targets(x), targets(x))
    bounds = {}
    for structure in ("full", "kronecker", "diagonal"):
        posterior = fit(
            model, lambda m, s=structure: Laplace(m, structure=s), (x, data[0]), epochs=10,
            optimizer="lbfgs", progress=False,
        )  # fmt: skip
        bounds[structure] = elbo(posterior, x, data[0]).value
    exact = fit(model, Laplace, (x, data[0]), epochs=10, optimizer="lbfgs", progress=False)
    assert bounds["full"] == pytest.approx(exact.guide.log_evidence(), abs=1e-6)
    assert bounds["full"] > bounds["kronecker"] > bounds["diagonal"]


def test_memory_does_not_grow_with_the_points() -> None:
    """The largest tensor that a chunk makes is bounded; ten times the points, the same chunks."""
    from probml_tp.guides.jacobians import MAX_ELEMENTS, gradient_rows

    model = BayesianModel(mlp((20, 50, 5), dtype=F64), NormalPrior(1.0), Categorical(5))
    sites = list(model.sites)
    for n in (200, 2000):
        x = inputs(n, 20)
        sizes = [
            sum(r.dense().numel() for r in rows.values())
            for _, _, rows in gradient_rows(
                model,
                random_flat(model),
                x,
                x,
                lambda o, *_: o,
                sites=sites,
                dense=True,
            )
        ]
        assert max(sizes) <= MAX_ELEMENTS
