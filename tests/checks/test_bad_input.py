"""Bad input to the Python API: every message names the rule, the value received and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import CASES, F64, Case, inputs
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Delta,
    Exact,
    FanInNormalPrior,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    LaplacePrior,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    StudentTPrior,
    elbo,
    fit,
    fit_ensemble,
    fit_evidence,
    sample_nuts,
    which_posterior,
)
from probml_tp.diagnostics import annealed_importance_sampling
from probml_tp.models import (
    GaussianBasis,
    LinearBasis,
    PolynomialBasis,
    lenet,
    linear_regression,
    logistic_regression,
    mlp,
    mlp_classifier,
)


def refused(call: Callable[[], object], *parts: str) -> str:
    """The message of the ValueError that a call ends in, with all the parts in their order."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the parts are what is matched)
        call()
    assert type(caught.value) is ValueError
    message = str(caught.value)
    place = 0
    for part in parts:
        assert part in message[place:], f"{part!r} is not in {message[place:]!r} of {message!r}"
        place = message.index(part, place) + len(part)
    return message


WITH_TARGETS: dict[str, Callable[[BayesianModel, Any, Any], object]] = {
    "fit": lambda m, x, y: fit(m, Delta, (x, y), epochs=1, progress=False),
    "validation": lambda m, x, y: fit(
        m, Delta, good(m), epochs=1, progress=False, validation=(x, y)
    ),
    "nuts": lambda m, x, y: sample_nuts(
        m, (x, y), draws=2, warmup=1, chains=1, jobs=1, progress=False
    ),
    "log_likelihood": lambda m, x, y: Posterior(MeanFieldNormal(m)).log_likelihood(x, y),
    "density": lambda m, x, y: Posterior(MeanFieldNormal(m)).log_predictive_density(x, y),
    "inference_data": lambda m, x, y: Posterior(MeanFieldNormal(m)).to_inference_data(x, y),
    "elbo": lambda m, x, y: elbo(Posterior(MeanFieldNormal(m)), x, y),
}  # fmt: skip

WITHOUT_TARGETS: dict[str, Callable[[BayesianModel, Any], object]] = {
    "predict": lambda m, x: Posterior(MeanFieldNormal(m)).predict(x),
    "check_inputs": lambda m, x: m.check_inputs(x),
}


def regression() -> BayesianModel:
    return CASES["mlp"]().model


def good(model: BayesianModel) -> tuple[Tensor, Tensor]:
    """Data that the regression takes."""
    case = CASES["mlp"]()
    return case.x, case.y


@pytest.fixture(params=[*WITH_TARGETS, *WITHOUT_TARGETS])
def of_inputs(request: pytest.FixtureRequest) -> Callable[[Any], object]:
    """Every function of the inputs, with good targets where it wants any."""
    model = regression()
    y = good(model)[1]
    if request.param in WITHOUT_TARGETS:
        return lambda bad: WITHOUT_TARGETS[request.param](model, bad)
    return lambda bad: WITH_TARGETS[request.param](
        model, bad, y[: len(bad)] if isinstance(bad, Tensor | np.ndarray) and bad.ndim else y
    )


@pytest.fixture(params=WITH_TARGETS)
def of_targets(request: pytest.FixtureRequest) -> Callable[[Any], object]:
    """Every function of the targets, with good inputs."""
    model = regression()
    return lambda bad: WITH_TARGETS[request.param](model, good(model)[0], bad)


# ------------------------------------------------------------------------------- inputs, targets


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_inputs_must_be_finite(of_inputs: Callable[[Any], object], value: float) -> None:
    x = inputs(10, 2)
    x[3, 1] = value
    refused(lambda: of_inputs(x), "x must be finite", "1 of 20", "(3, 1)", "Drop or impute")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_targets_must_be_finite(of_targets: Callable[[Any], object], value: float) -> None:
    y = torch.zeros(10)
    y[[2, 7]] = value
    refused(lambda: of_targets(y), "y must be finite", "2 of 10", "(2,)", "Drop or impute")


def test_inputs_must_not_be_empty(of_inputs: Callable[[Any], object]) -> None:
    refused(lambda: of_inputs(torch.zeros(0, 2)), "x must hold at least one data point", "(0, 2)")


def test_targets_must_not_be_empty(of_targets: Callable[[Any], object]) -> None:
    refused(lambda: of_targets(torch.zeros(0)), "y must hold at least one data point", "(0,)")


def test_an_empty_data_set_is_refused() -> None:
    model = regression()
    for name, call in WITH_TARGETS.items():
        if name != "validation":
            refused(lambda c=call: c(model, [], []), "at least one data point")


@pytest.mark.parametrize("shape", [(10, 3), (10, 1), (10,), (10, 2, 2)])
def test_inputs_must_fit_the_net(
    of_inputs: Callable[[Any], object], shape: tuple[int, ...]
) -> None:
    refused(lambda: of_inputs(torch.zeros(shape)), str(shape))


@pytest.mark.parametrize("shape", [(9,), (11,), (9, 1)])
def test_inputs_and_targets_must_be_pairs(
    of_targets: Callable[[Any], object], shape: tuple[int, ...]
) -> None:
    refused(
        lambda: of_targets(torch.zeros(shape)),
        "x and y must have the same number of data points", f"got 10 and {shape[0]}", str(shape),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(10, 2), (10, 1, 1), (10, 10)])
def test_targets_must_fit_the_net(
    of_targets: Callable[[Any], object], shape: tuple[int, ...]
) -> None:
    refused(
        lambda: of_targets(torch.zeros(shape)), "y must have shape (10,)", str(shape), "Reshape y"
    )


@pytest.mark.parametrize(
    "value", ["text", None, [["a", "b"]] * 3, [[1.0, 2.0], [3.0]], {"a": 1}], ids=repr
)
def test_inputs_must_be_numbers(of_inputs: Callable[[Any], object], value: object) -> None:
    refused(lambda: of_inputs(value), "x must")


def test_complex_numbers_are_refused(of_inputs: Callable[[Any], object]) -> None:
    refused(lambda: of_inputs(torch.zeros(10, 2, dtype=torch.complex64)), "x must", "complex64")


def test_numbers_too_large_for_the_models_type_are_refused() -> None:
    model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(0.1))
    refused(lambda: model.check_inputs(np.array([[1e300]])), "x must be finite")
    refused(lambda: model.check_data(np.zeros((2, 1)), np.array([0, 1e300])), "y must be finite")


@pytest.mark.parametrize(
    ("model", "labels", "parts"),
    [
        ("classifier-3", [0, 1, 2, 3, 0, 0, 0, 0, 0, 0], ("0 to 2", "1 of 10", "y[3] = 3")),
        ("classifier-3", [-1, *[0] * 9], ("0 to 2", "y[0] = -1")),
        ("classifier-3", [0.5, *[0] * 9], ("0 to 2", "y[0] = 0.5")),
        ("classifier-2", [2, *[0] * 9], ("0 to 1", "y[0] = 2")),
        ("classifier-2", [-1, 1] * 5, ("0 to 1", "5 of 10", "y[0] = -1")),
    ],
)
def test_labels_must_be_in_range(model: str, labels: list[float], parts: tuple[str, ...]) -> None:
    case = CASES[model]()
    for name, call in WITH_TARGETS.items():
        if name != "validation":
            remedy = "Renumber the classes"
            refused(lambda c=call: c(case.model, case.x, labels), "labels must", *parts, remedy)


def test_one_hot_labels_are_refused() -> None:
    case = CASES["classifier-3"]()
    one_hot = nn.functional.one_hot(case.y, 3)
    refused(
        lambda: fit(case.model, Delta, (case.x, one_hot), progress=False),
        "labels must have shape (batch,)", "(10, 3)", "not one-hot",
    )  # fmt: skip


def test_nan_labels_are_refused() -> None:
    case = CASES["classifier-3"]()
    labels = case.y.double()
    labels[4] = math.nan
    refused(lambda: case.model.check_data(case.x, labels), "y must be finite", "(4,)")


# ------------------------------------------------------------------- what is no Bayesian model


def a_function(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.Linear(2, 1), "the module Linear"),
        (a_function, "the function 'a_function'"),
        (BayesianModel, "the class 'BayesianModel'"),
        (None, "got None"),
    ],
)
def test_a_bare_module_or_function_is_no_model(model: Any, what: str, tmp_path: Path) -> None:
    data = good(regression())
    path = Posterior(Delta(regression())).save(tmp_path / "posterior")
    calls: list[Callable[[], object]] = [
        lambda: fit(model, Delta, data),
        lambda: fit_ensemble(model, Delta, data),
        lambda: fit_evidence(model, data),
        lambda: sample_nuts(model, data),
        lambda: which_posterior(model, data),
        lambda: annealed_importance_sampling(model, *data),
        lambda: Posterior.load(path, model),
        *(lambda guide=guide: guide(model) for guide in (Delta, Laplace, Exact, MeanFieldNormal)),
    ]
    for call in calls:
        refused(call, "model must be a BayesianModel", what, "BayesianModel(net, NormalPrior(scale")


# ------------------------------------------------------- what is not bad, and must not be refused


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.numpy(),
        lambda a: a.tolist(),
        lambda a: a.float(),
        lambda a: np.asfortranarray(a.numpy()),
        lambda a: a.numpy()[::-1][::-1],
        lambda a: np.flip(a.numpy().copy(), 0)[::-1],
        lambda a: a.clone().requires_grad_(),
    ],
    ids=["numpy", "list", "float32", "fortran", "views", "negative stride", "requires grad"],
)
def test_arrays_of_every_kind_are_taken(convert: Callable[[Tensor], Any]) -> None:
    model = regression()
    x, y = good(model)
    posterior = fit(model, Delta, (convert(x), convert(y)), epochs=2, progress=False)
    expected = fit(model, Delta, (x, y), epochs=2, progress=False)
    torch.testing.assert_close(posterior.guide.loc, expected.guide.loc, rtol=1e-5, atol=1e-6)
    assert posterior.predict(convert(x)).mean.shape == (10,)
    posterior.to_inference_data(convert(x), convert(y), num_samples=2)


def test_read_only_arrays_are_taken_without_a_warning() -> None:
    model = regression()
    x, y = (a.numpy().copy() for a in good(model))
    x.flags.writeable = y.flags.writeable = False
    fit(model, Delta, (x, y), epochs=1, progress=False)


def test_the_callers_arrays_are_not_changed() -> None:
    model = regression()
    x, y = (a.numpy().copy() for a in good(model))
    before = x.copy(), y.copy()
    posterior = fit(model, MeanFieldNormal, (x, y), epochs=2, batch_size=3, progress=False)
    posterior.predict(x)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int64, np.float32])
def test_labels_of_every_numeric_type_are_taken(kind: type) -> None:
    case = CASES["classifier-2"]()
    labels = case.y.numpy().astype(kind)
    assert torch.equal(case.model.check_data(case.x, labels)[1], case.y.to(F64))
    assert torch.equal(case.model.check_data(case.x, labels[:, None])[1], case.y.to(F64))


def test_whole_numbers_are_numbers() -> None:
    model = regression()
    x, y = model.check_data([[1, 2], [3, 4]], [1, 0])
    assert x.dtype == y.dtype == F64


def test_a_single_point_is_a_data_set() -> None:
    model = regression()
    posterior = fit(model, MeanFieldNormal, ([[0.1, 0.2]], [0.3]), epochs=2, progress=False)
    assert posterior.predict([[0.1, 0.2]]).mean.shape == (1,)
    posterior.to_inference_data([[0.1, 0.2]], [0.3], num_samples=3)


# ------------------------------------------------------------------------------- building models


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "one", None, True])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("NormalPrior.scale", lambda v: NormalPrior(v)),
        ("FanInNormalPrior.scale", lambda v: FanInNormalPrior(v)),
        ("LaplacePrior.scale", lambda v: LaplacePrior(v)),
        ("StudentTPrior.scale", lambda v: StudentTPrior(scale=v)),
        ("precision", lambda v: NormalPrior.from_precision(v)),
        ("precision", lambda v: Gaussian.from_precision(v)),
        ("min_scale", lambda v: HeteroscedasticGaussian(min_scale=v)),
        ("scale", lambda v: GaussianBasis(centers=[0.0], scale=v)),
    ],
)
def test_scales_must_be_positive(name: str, build: Callable[[Any], object], value: object) -> None:
    refused(lambda: build(value), name, "positive finite number", repr(value), "above 0")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "one", True])
def test_an_initial_scale_must_be_positive(value: object) -> None:
    refused(
        lambda: MeanFieldNormal(regression(), init_scale=value),
        "init_scale", "positive finite number", repr(value), "above 0",
    )  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -0.3, math.nan, math.inf])
def test_noise_must_be_positive(value: float) -> None:
    refused(lambda: Gaussian(value), "Gaussian.scale", "positive finite", repr(value), "above 0")


def test_a_prior_for_a_parameter_the_net_does_not_have() -> None:
    refused(
        lambda: BayesianModel(
            mlp((1, 2, 1)), {"fc3.weight": NormalPrior(1.0), "*": NormalPrior(1.0)}, Gaussian(0.1)
        ),
        "a prior must name a parameter", "'fc3.weight'", "fc1.weight, fc1.bias, fc2.weight",
    )  # fmt: skip


def test_batch_norm_in_train_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    refused(
        lambda: BayesianModel(net, NormalPrior(1.0), Gaussian(0.1)),
        "must not depend on the rest of the batch", "'1' (BatchNorm1d)", "net.eval()", "LayerNorm",
    )  # fmt: skip


class Returns(nn.Module):
    """A net that returns what it is told to."""

    def __init__(self, of: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.of = of

    def forward(self, x: Tensor) -> object:
        return self.of(x * self.weight)


@pytest.mark.parametrize(
    ("of", "part"),
    [
        (lambda x: x.mean(), "()"),
        (lambda x: x.squeeze(-1), "(2,)"),
        (lambda x: x.unsqueeze(-1), "(2, 1, 1)"),
        (lambda x: x[:1], "(1, 1)"),
        (lambda x: (x, x), "tuple"),
        (lambda x: None, "None"),
    ],
)
def test_nets_must_return_a_row_for_each_point(of: Callable[[Tensor], object], part: str) -> None:
    model = BayesianModel(Returns(of), NormalPrior(1.0), Gaussian(0.1))
    refused(lambda: model.check_inputs(torch.zeros(5, 1)), part)


def test_indices_out_of_range_are_refused_wherever_they_stand() -> None:
    case = CASES["embedding"]()
    refused(lambda: case.model.check_inputs(torch.full((5, 4), 5)), "x must")
    late = torch.zeros(50, 4, dtype=torch.long)
    late[40, 2] = 5
    refused(
        lambda: fit(
            case.model, Delta, (late, torch.zeros(50)), epochs=1, batch_size=10, progress=False
        ),
        "x must",
    )


@pytest.mark.parametrize("likelihood", [None, "gaussian", nn.MSELoss(), Gaussian], ids=repr)
def test_what_is_no_likelihood_is_refused(likelihood: object) -> None:
    refused(lambda: BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), likelihood), "likelihood")


@pytest.mark.parametrize(
    "net", [None, "mlp", lambda x: x, nn.Linear], ids=["None", "text", "f", "class"]
)
def test_what_is_no_net_is_refused(net: object) -> None:
    refused(lambda: BayesianModel(net, NormalPrior(1.0), Gaussian(1.0)), "net")


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: PolynomialBasis(degree=0), ("degree", "0")),
        (lambda: PolynomialBasis(degree=1.5), ("degree", "1.5")),
        (lambda: GaussianBasis(centers=[], scale=1.0), ("at least one centre", "none")),
        (lambda: GaussianBasis.evenly_spaced(1.0, 0.0, num=3), ("high - low", "-1.0")),
        (lambda: GaussianBasis.evenly_spaced(0.0, 1.0, num=0), ("num", "0")),
        (lambda: GaussianBasis(centers=[0.0, math.nan], scale=1.0), ("centers must be fin", "nan")),
        (lambda: mlp((3,)), ("at least an input and an output", "(3,)")),
        (lambda: mlp((3, 0, 1)), ("size", "0")),
        (lambda: mlp((3, 1), activation="sine"), ("activation", "'relu'", "'sine'")),
        (lambda: mlp_classifier(2, hidden=(3,), prior=NormalPrior(1.0), num_classes=1), ("1",)),
        (lambda: logistic_regression(0, prior=NormalPrior(1.0)), ("num_features", "0")),
        (lambda: logistic_regression(2, prior=NormalPrior(1.0), num_classes=0), ("0",)),
        (lambda: lenet(prior=NormalPrior(1.0), num_classes=1), ("1",)),
        (
            lambda: linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=-1),
            ("Gaussian.scale", "-1"),
        ),
        (lambda: Categorical(1), ("two classes", "1")),
    ],
)  # fmt: skip
def test_models_are_built_from_sensible_numbers(
    build: Callable[[], object], parts: tuple[str, ...]
) -> None:
    refused(build, *parts)


def test_a_basis_takes_scalars() -> None:
    model = CASES["polynomial"]().model
    refused(
        lambda: model.check_inputs(torch.zeros(4, 2)), "x must have a shape", "(4, 2)", "scalar"
    )


@pytest.mark.parametrize(
    ("likelihood", "outputs", "part"),
    [
        (Bernoulli(), 2, "one output"),
        (Categorical(3), 4, "(batch, 3)"),
        (HeteroscedasticGaussian(), 3, "two outputs"),
    ],
)
def test_nets_must_fit_their_likelihood(likelihood: nn.Module, outputs: int, part: str) -> None:
    model = BayesianModel(nn.Linear(1, outputs), NormalPrior(1.0), likelihood)
    refused(lambda: model.check_inputs(torch.zeros(4, 1)), part, str(outputs))


# ----------------------------------------------------------------------------- guides of others


def test_a_guide_fitted_for_another_model() -> None:
    ours: Case = CASES["mlp"]()
    other = CASES["linear"]().model
    guide = fit(other, Delta, (inputs(5, 1), torch.zeros(5)), epochs=1, progress=False).guide
    refused(
        lambda: fit(ours.model, guide, (ours.x, ours.y), progress=False),
        "a guide must belong to the model", other.name, ours.model.name, "Pass the guide's class",
    )  # fmt: skip
