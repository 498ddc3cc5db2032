"""Predictive distributions: the splits of uncertainty and the quantiles, on known distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from probml_tp import (
    Bernoulli,
    Categorical,
    ClassificationPredictive,
    Gaussian,
    HeteroscedasticGaussian,
    RegressionPredictive,
)
from probml_tp.predictions.draws import DrawBatch
from probml_tp.predictions.predictive.accumulators import (
    ClassificationAccumulator,
    RegressionAccumulator,
)

F64 = torch.float64


def draws_of(
    outputs: Tensor, params: dict[str, Tensor], *, chunk: int, batch: int
) -> list[DrawBatch]:
    """Outputs ``(S, N, k)`` cut into chunks of draws and batches of points."""
    pieces = []
    for s in range(0, len(outputs), chunk):
        draws = slice(s, min(s + chunk, len(outputs)))
        for n in range(0, outputs.shape[1], batch):
            points = slice(n, min(n + batch, outputs.shape[1]))
            own = {name: v[draws] for name, v in params.items()}
            pieces.append(DrawBatch(draws, points, own, outputs[draws, points]))
    return pieces


def accumulate(
    kind: Any, likelihood: Any, outputs: Tensor, params: dict[str, Tensor] | None = None,
    *, chunk: int = 1000, batch: int = 1000, keep: bool = True,
) -> Any:  # fmt: skip
    accumulator = kind(likelihood, outputs.shape[1], keep_outputs=keep)
    for piece in draws_of(outputs, params or {}, chunk=chunk, batch=batch):
        accumulator.update(piece)
    return accumulator.result()


def classify(probs: list[list[float]], **options: Any) -> ClassificationPredictive:
    """One point, whose class probabilities at each draw are given."""
    outputs = torch.tensor(probs, dtype=F64).log().unsqueeze(1)
    return accumulate(ClassificationAccumulator, Categorical(len(probs[0])), outputs, **options)


# ----------------------------------------------------------------------------- classification


def test_a_certain_draw_has_no_uncertainty() -> None:
    predictive = classify([[1.0, 0.0, 0.0]] * 4)
    assert predictive.predictive_entropy.item() == 0
    assert predictive.expected_entropy.item() == 0
    assert predictive.mutual_information.item() == 0
    assert predictive.variation_ratio.item() == 0
    assert predictive.confidence.item() == 1


def test_agreement_on_a_uniform_distribution_is_aleatoric() -> None:
    predictive = classify([[0.25] * 4] * 5)
    for entropy in (predictive.predictive_entropy, predictive.expected_entropy):
        assert entropy.item() == pytest.approx(math.log(4))
    assert predictive.mutual_information.item() == pytest.approx(0, abs=1e-12)


def test_certain_draws_that_disagree_are_epistemic() -> None:
    predictive = classify([[1.0, 0.0], [0.0, 1.0]])
    assert predictive.predictive_entropy.item() == pytest.approx(math.log(2))
    assert predictive.expected_entropy.item() == 0
    assert predictive.mutual_information.item() == pytest.approx(math.log(2))
    assert predictive.variation_ratio.item() == 0.5


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("batch", [2, 100])
def test_the_split_is_scipys_on_random_draws(chunk: int, batch: int) -> None:
    logits = 2 * torch.randn(10, 7, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    predictive = accumulate(
        ClassificationAccumulator, Categorical(4), logits, chunk=chunk, batch=batch
    )
    p = scipy.special.softmax(logits.numpy(), axis=-1)
    mean = p.mean(0)
    np.testing.assert_allclose(predictive.probs, mean, rtol=1e-12)
    total = scipy.stats.entropy(mean, axis=-1)
    aleatoric = scipy.stats.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(predictive.predictive_entropy, total, rtol=1e-12)
    np.testing.assert_allclose(predictive.expected_entropy, aleatoric, rtol=1e-12)
    np.testing.assert_allclose(predictive.mutual_information, total - aleatoric, rtol=1e-9)
    votes = np.stack([(p.argmax(-1) == c).sum(0) for c in range(4)], axis=-1)
    np.testing.assert_array_equal(predictive.votes, votes)
    np.testing.assert_allclose(predictive.variation_ratio, 1 - votes.max(-1) / 10, rtol=1e-12)
    np.testing.assert_array_equal(predictive.predicted_class, mean.argmax(-1))
    assert torch.equal(predictive.require_outputs(), logits)
    assert predictive.num_samples == 10


def test_probabilities_are_averaged_and_not_logits() -> None:
    """Draws (0.9, 0.1) and (0.2, 0.8): 0.55 on average; the mean logit would say 0.6."""
    predictive = classify([[0.9, 0.1], [0.2, 0.8]])
    assert predictive.confidence.item() == pytest.approx(0.55)


def test_the_vote_and_the_mean_may_differ() -> None:
    predictive = classify([[0.51, 0.49, 0.0]] * 3 + [[0.0, 1.0, 0.0]] * 2)
    assert predictive.predicted_class.item() == 1
    assert predictive.voted_class.item() == 0
    assert predictive.variation_ratio.item() == pytest.approx(0.4)


def test_the_variation_ratio_of_a_tie() -> None:
    predictive = classify([[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.9, 0.0]] * 2)
    assert predictive.variation_ratio.item() == 0.5
    assert predictive.votes.tolist() == [[2, 2, 0]]


def test_mutual_information_is_never_negative() -> None:
    """Rounding makes the difference of the entropies negative for draws that agree."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 500, 10, generator=generator).expand(60, 500, 10)
    predictive = accumulate(ClassificationAccumulator, Categorical(10), logits)
    assert bool((predictive.mutual_information >= 0).all())
    assert bool((predictive.mutual_information < 1e-5).all())


def test_extreme_logits_give_no_nan() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]]])
    predictive = accumulate(ClassificationAccumulator, Categorical(3), logits)
    assert predictive.mutual_information.item() == pytest.approx(math.log(2))
    binary = accumulate(ClassificationAccumulator, Bernoulli(), torch.tensor([[[1e4]], [[1e4]]]))
    assert binary.predictive_entropy.item() == 0
    assert binary.expected_entropy.item() == 0


def test_outputs_that_are_nan_are_not_passed_over() -> None:
    logits = torch.tensor([[[math.nan, 0.0]], [[0.0, 0.0]]])
    predictive = accumulate(ClassificationAccumulator, Categorical(2), logits)
    assert bool(predictive.probs.isnan().any())
    assert bool(predictive.expected_entropy.isnan().all())


def test_a_binary_model_has_two_columns() -> None:
    logits = torch.tensor([[[0.0]], [[2.0]]], dtype=F64)
    predictive = accumulate(ClassificationAccumulator, Bernoulli(), logits)
    p = (0.5 + 1 / (1 + math.exp(-2))) / 2
    torch.testing.assert_close(predictive.probs, torch.tensor([[1 - p, p]], dtype=F64))
    assert predictive.votes.sum().item() == 2


# --------------------------------------------------------------------------------- regression


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
@pytest.mark.parametrize("d", [1, 3])
def test_the_law_of_total_variance(chunk: int, d: int) -> None:
    """Against NumPy on heteroscedastic draws, however they are cut."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(11, 6, 2 * d, generator=generator, dtype=F64)
    predictive = accumulate(
        RegressionAccumulator, HeteroscedasticGaussian(), outputs, chunk=chunk, batch=4
    )
    loc = outputs[..., :d].numpy()
    scale = np.logaddexp(0, outputs[..., d:].numpy()) + 1e-3
    squeeze = (lambda a: a[..., 0]) if d == 1 else (lambda a: a)
    np.testing.assert_allclose(predictive.mean, squeeze(loc.mean(0)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        predictive.epistemic_variance, squeeze(loc.var(0, ddof=1)), rtol=1e-12
    )
    np.testing.assert_allclose(
        predictive.aleatoric_variance, squeeze((scale**2).mean(0)), rtol=1e-12
    )
    torch.testing.assert_close(
        predictive.variance, predictive.epistemic_variance + predictive.aleatoric_variance
    )
    torch.testing.assert_close(predictive.std, predictive.variance.sqrt())
    np.testing.assert_allclose(predictive.component_means, squeeze(loc))
    np.testing.assert_allclose(predictive.component_scales, squeeze(scale))


def test_a_noise_scale_for_each_draw_is_averaged_as_a_variance() -> None:
    scales = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    likelihood = Gaussian(dist.HalfNormal(1.0)).double()
    predictive = accumulate(
        RegressionAccumulator, likelihood, torch.zeros(3, 2, 1, dtype=F64), {"noise_scale": scales}
    )
    assert predictive.aleatoric_variance.tolist() == pytest.approx([1.75, 1.75])
    assert predictive.epistemic_variance.tolist() == [0, 0]
    assert predictive.component_scales[:, 0].tolist() == scales.tolist()


def test_variances_survive_a_large_mean() -> None:
    """The textbook's E[f^2] - E[f]^2 would lose every digit."""
    generator = torch.Generator().manual_seed(0)
    outputs = 1e8 + torch.randn(50, 3, 1, generator=generator, dtype=F64)
    for chunk in (1, 7, 50):
        predictive = accumulate(RegressionAccumulator, Gaussian(1.0).double(), outputs, chunk=chunk)
        expected = (outputs - 1e8).squeeze(-1).var(0)
        torch.testing.assert_close(predictive.epistemic_variance, expected, rtol=1e-6, atol=0)


def test_one_draw_has_no_epistemic_variance() -> None:
    predictive = accumulate(RegressionAccumulator, Gaussian(0.5), torch.ones(1, 2, 1))
    assert predictive.epistemic_variance.tolist() == [0, 0]
    assert predictive.variance.tolist() == pytest.approx([0.25, 0.25])


# ---------------------------------------------------------------------------------- quantiles


MEANS = torch.tensor([[-2.0, 0.0], [1.0, 0.1], [1.5, 30.0]], dtype=F64)
SCALES = torch.tensor([[0.3, 1.0], [0.6, 1.0], [2.0, 0.01]], dtype=F64)


@pytest.mark.parametrize("level", [1e-6, 0.025, 0.3, 0.5, 0.9, 0.999])
def test_quantiles_of_a_mixture_are_scipys(level: float) -> None:
    predictive = RegressionPredictive(3, None, MEANS[0], MEANS[0], MEANS[0], MEANS, SCALES)
    for n in range(2):
        parts = scipy.stats.norm(MEANS[:, n].numpy(), SCALES[:, n].numpy())
        root = scipy.optimize.brentq(
            lambda q, p=parts: p.cdf(q).mean() - level, -60, 60, xtol=1e-13
        )
        assert predictive.quantile(level)[n].item() == pytest.approx(root, rel=1e-9, abs=1e-9)


def test_the_distribution_function_is_the_inverse_of_the_quantile() -> None:
    mixture = RegressionPredictive(3, None, MEANS[0], MEANS[0], MEANS[0], MEANS, SCALES)
    variance = torch.tensor([0.5, 4.0], dtype=F64)
    exact = RegressionPredictive(0, None, MEANS[0], variance, 0.25 * torch.ones(2, dtype=F64))
    y = torch.tensor([0.4, -0.3], dtype=F64)
    parts = scipy.stats.norm(MEANS.numpy(), SCALES.numpy())
    np.testing.assert_allclose(mixture.cdf(y), parts.cdf(y.numpy()).mean(0), rtol=1e-12)
    whole = scipy.stats.norm(MEANS[0].numpy(), np.sqrt(variance.numpy() + 0.25))
    np.testing.assert_allclose(exact.cdf(y), whole.cdf(y.numpy()), rtol=1e-12)
    for predictive in (mixture, exact):
        level = torch.full((2,), 0.3, dtype=F64)
        torch.testing.assert_close(predictive.cdf(predictive.quantile(0.3)), level)
    with pytest.raises(ValueError, match="keep_outputs=True"):
        accumulate(RegressionAccumulator, Gaussian(0.5), torch.ones(3, 2, 1), keep=False).cdf(y)


def test_an_interval_holds_its_probability() -> None:
    predictive = RegressionPredictive(3, None, MEANS[0], MEANS[0], MEANS[0], MEANS, SCALES)
    low, high = predictive.interval(0.9)
    normal = torch.distributions.Normal(MEANS, SCALES)
    mass = (normal.cdf(high) - normal.cdf(low)).mean(0)
    torch.testing.assert_close(mass, torch.full((2,), 0.9, dtype=F64))
    torch.testing.assert_close(normal.cdf(low).mean(0), torch.full((2,), 0.05, dtype=F64))


def test_exact_moments_have_the_normals_quantiles() -> None:
    mean, variance = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([0.5, 4.0], dtype=F64)
    predictive = RegressionPredictive(0, None, mean, variance, 0.25 * torch.ones(2, dtype=F64))
    expected = scipy.stats.norm(mean.numpy(), np.sqrt(variance.numpy() + 0.25)).ppf(0.2)
    np.testing.assert_allclose(predictive.quantile(0.2), expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95, math.nan])
def test_levels_must_be_probabilities(level: float) -> None:
    predictive = RegressionPredictive(0, None, MEANS[0], MEANS[1], MEANS[1])
    for call in (predictive.quantile, predictive.interval):
        with pytest.raises(ValueError, match=f"strictly between 0 and 1; got {level}"):
            call(level)


def test_quantiles_need_the_outputs_of_every_draw() -> None:
    predictive = accumulate(RegressionAccumulator, Gaussian(0.5), torch.ones(3, 2, 1), keep=False)
    with pytest.raises(ValueError, match="keep_outputs=True"):
        predictive.quantile(0.5)
    with pytest.raises(ValueError, match="keep_outputs=True"):
        predictive.require_outputs()
