"""Panels of regression: what is drawn is what the arrays say."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from probml_tp.plots.regression import (
    Band,
    band_legend,
    intervals,
    mark_limit,
    mark_training_range,
    plot_band,
    plot_data,
    plot_ellipse,
    plot_normal_density,
    plot_sample_density,
    plot_variance_parts,
    plot_weight_density,
)
from probml_tp.plots.style import figure, guide_style, house_style
from probml_tp.predictions.predictive import RegressionPredictive

Z95 = 1.959963984540054
X = torch.linspace(-1, 1, 11, dtype=torch.float64).unsqueeze(-1)


def exact_predictive():
    x = X[:, 0]
    return RegressionPredictive(
        num_samples=0,
        outputs=None,
        mean=2 * x,
        epistemic_variance=0.1 + x**2,
        aleatoric_variance=torch.full_like(x, 0.25),
    )


def drawn_predictive(*, scale=0.5, num_samples=400):
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(num_samples, 1, generator=generator, dtype=torch.float64)
    means = slopes * X[:, 0]
    return RegressionPredictive(
        num_samples=num_samples,
        outputs=means.unsqueeze(-1),
        mean=means.mean(0),
        epistemic_variance=means.var(0),
        aleatoric_variance=torch.full((len(X),), scale**2, dtype=torch.float64),
        component_means=means,
        component_scales=torch.full_like(means, scale),
    )


@pytest.fixture
def ax():
    with house_style():
        yield figure()[1][0, 0]


@pytest.fixture
def band():
    return Band.from_predictive(X, exact_predictive())


def test_a_band_of_exact_moments_is_normal(band):
    x = X[:, 0].numpy()
    np.testing.assert_allclose(band.upper, 2 * x + Z95 * np.sqrt(0.35 + x**2), rtol=1e-12)
    np.testing.assert_allclose(band.epistemic_lower, 2 * x - Z95 * np.sqrt(0.1 + x**2), rtol=1e-12)
    np.testing.assert_allclose(band.variance, 0.35 + x**2, rtol=1e-12)


def test_a_band_of_draws_has_the_quantiles_of_the_functions_inside():
    predictive = drawn_predictive()
    band = Band.from_predictive(X, predictive, level=0.9)
    expected = np.quantile(predictive.component_means.numpy(), [0.05, 0.95], axis=0)
    np.testing.assert_allclose([band.epistemic_lower, band.epistemic_upper], expected, rtol=1e-12)
    assert (band.lower < band.epistemic_lower).all() and (band.upper > band.epistemic_upper).all()


def test_a_band_of_draws_needs_their_outputs():
    kept = drawn_predictive()
    moments = {n: getattr(kept, n) for n in ("mean", "epistemic_variance", "aleatoric_variance")}
    forgotten = RegressionPredictive(num_samples=400, outputs=None, **moments)
    with pytest.raises(ValueError, match="keep_outputs=True"):
        Band.from_predictive(X, forgotten)


def test_a_band_survives_the_arrays(band):
    arrays = band.to_arrays("line-exact")
    assert set(arrays) == {f"line-exact.{name}" for name in vars(band)}
    again = Band.from_arrays(arrays, "line-exact")
    for name, value in vars(band).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_a_band_is_drawn_as_it_is(band, ax):
    assert plot_band(band, ax=ax, color="#0072B2") is ax
    total, epistemic = (collection.get_datalim(ax.transData) for collection in ax.collections)
    assert total.y0 == pytest.approx(band.lower.min()) and total.y1 == pytest.approx(
        band.upper.max()
    )
    assert epistemic.y1 == pytest.approx(band.epistemic_upper.max())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), band.mean)
    assert to_rgba(ax.lines[0].get_color()) == to_rgba("#0072B2")


def test_variance_parts_are_stacked(band, ax):
    plot_variance_parts(band, ax=ax)
    noise, epistemic = (collection.get_datalim(ax.transData) for collection in ax.collections)
    assert (noise.y0, noise.y1) == pytest.approx((0.0, 0.25))
    assert (epistemic.y0, epistemic.y1) == pytest.approx((0.25, band.variance.max()))
    assert ax.get_ylim()[0] == 0


def test_data_and_their_range_are_marked(ax):
    x = np.array([-3.0, -2.5, -2.0, 2.0, 2.5, 3.0])
    plot_data(x, x**2, ax=ax)
    mark_training_range(x, ax=ax)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([x, x**2], axis=1))
    assert [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches] == [(-3, -2), (2, 3)]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([1.0, 0.0, 0.5], [(0.0, 1.0)]),
        ([0.0, 1.0], [(0.0, 0.0), (1.0, 1.0)]),
        ([2.0], [(2.0, 2.0)]),
    ],
)
def test_intervals(x, expected):
    assert intervals(np.array(x), gap=0.6) == expected


def test_the_ellipse_holds_its_share(ax):
    covariance = np.array([[2.0, -1.2], [-1.2, 1.0]])
    plot_ellipse(np.array([1.0, -1.0]), covariance, ax=ax, style=guide_style("exact"), level=0.8)
    z = ax.lines[0].get_xydata() - [1.0, -1.0]
    squared = np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance), z)
    np.testing.assert_allclose(squared, -2 * np.log(0.2), rtol=1e-9)


def test_a_point_mass_is_a_marker_and_a_line(ax):
    style = guide_style("map")
    plot_ellipse(np.array([1.0, 2.0]), np.zeros((2, 2)), ax=ax, style=style)
    plot_normal_density(0.5, 0.0, np.linspace(0, 1), ax=ax, style=style)
    assert ax.lines[0].get_xydata().tolist() == [[1.0, 2.0]]
    assert ax.lines[1].get_xdata() == [0.5, 0.5]


def test_densities_integrate_to_one(ax):
    x = np.linspace(-9, 11, 4001)
    plot_normal_density(1.0, 1.5, x, ax=ax, style=guide_style("laplace"))
    assert np.trapezoid(ax.lines[0].get_ydata(), x) == pytest.approx(1.0, abs=1e-6)
    plot_sample_density(np.random.default_rng(0).normal(size=500), ax=ax, style=guide_style("nuts"))
    outline = ax.patches[0].get_xy()
    area = 0.5 * abs(np.sum(outline[:-1, 0] * outline[1:, 1] - outline[1:, 0] * outline[:-1, 1]))
    assert area == pytest.approx(1.0, abs=1e-9)


def test_a_weight_density_is_shaded_by_its_share_of_the_maximum(ax):
    grid = np.linspace(-1, 1, 5)
    log_density = -5000.0 - np.add.outer(grid**2, (grid - 0.5) ** 2)
    plot_weight_density(grid, grid, log_density, ax=ax)
    shades = np.asarray(ax.images[0].get_array())
    assert shades.max() == 1.0
    assert np.unravel_index(shades.argmax(), shades.shape) == (2, 3)
    assert ax.images[0].origin == "lower"


def test_a_whole_panel_renders_with_one_legend(band):
    with house_style():
        made, axes = figure(1, 2)
        for ax in axes.flat:
            plot_band(band, ax=ax)
            mark_limit(0.25, "limit", ax=ax)
        legend = band_legend(made, level=0.9)
    assert [t.get_text() for t in legend.get_texts()][2] == "90 % of functions (epistemic)"
    made.savefig(io.BytesIO(), format="png", dpi=30)
