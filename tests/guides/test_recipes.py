"""The recipes: what starts where, in which order guides are fitted, and one more of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from probml_tp import MeanFieldNormal
from probml_tp.guides.recipes import (
    RECIPES,
    Chains,
    FitSettings,
    Recipe,
    SwagPath,
    fit_all,
    guides_for,
    lr_of,
    one_of_each_family,
    order_of,
    start_of,
)
from probml_tp.kit.common import labels_of
from probml_tp.models import mlp_regressor
from probml_tp.plots.style import guide_style
from probml_tp.plots.training import loss_panels
from probml_tp.priors import NormalPrior

HOW = FitSettings(
    epochs=20,
    lr=0.01,
    rounds=1,
    rank=1,
    rates={"fc2": 0.1},
    members=2,
    from_mode=("mean-field",),
    swag=SwagPath(lr=1e-3, epochs=3, batch_size=5),
    chains=Chains(chains=2, draws=4, warmup=2, max_tree_depth=2, start="laplace", jobs=1),
)
X = torch.linspace(-1, 1, 20).unsqueeze(-1)
DATA = X, X[:, 0].sin()


def net():
    return mlp_regressor(1, hidden=(3,), prior=NormalPrior(1.0), likelihood=0.2, seed=0)


@pytest.fixture(scope="module")
def done():
    return fit_all([g for g in RECIPES if g not in ("exact", "nuts")], net(), DATA, HOW)


def test_there_is_a_recipe_for_every_guide_of_a_net(done):
    own = {guide: guide for guide in done}
    own |= dict.fromkeys(guides_for("layers", families=("curvature",)), "laplace-linearized")
    own["laplace"] = "laplace"
    assert {guide: posterior.name for guide, posterior in done.items()} == own


def test_starts_come_first_and_once():
    assert order_of(["swag", "multi-swag", "laplace", "mean-field"], HOW) == [
        "map", "deep-ensemble", "swag", "multi-swag", "laplace", "mean-field",
    ]  # fmt: skip
    assert order_of(["mc-dropout", "nuts"], replace(HOW, chains=Chains())) == ["mc-dropout", "nuts"]
    assert order_of(["nuts"], HOW) == ["map", "laplace", "nuts"]
    assert order_of(["nuts", "map"], HOW, given=["laplace"]) == ["map", "nuts"]


def test_an_unknown_guide_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="must have a recipe; got laplac. They are exact, nuts"):
        order_of(["laplac"], HOW)


def test_settings_may_be_for_a_guide_a_family_or_a_trait():
    how = replace(HOW, lrs={"correlated": 0.5, "dropout": 0.2, "map": 0.3}, from_mode=("normal",))
    assert [lr_of(g, how) for g in ("low-rank-normal", "mean-field", "mc-dropout", "map")] == [
        0.5, 0.01, 0.2, 0.3,
    ]  # fmt: skip
    assert [start_of(g, how) for g in ("low-rank-normal", "mean-field", "mc-dropout")] == [
        "map", "map", None,
    ]  # fmt: skip


def test_guides_suit_what_a_model_has():
    assert guides_for("conjugate", families=("reference",)) == ("exact", "nuts")
    assert "exact" not in guides_for("layers")
    assert "mc-dropout" not in guides_for("conjugate")


def test_seconds_count_the_start(done):
    own = {guide: posterior.info.seconds for guide, posterior in done.items()}
    total = {guide: posterior.info.total_seconds for guide, posterior in done.items()}
    assert total["map"] == own["map"]
    assert total["mean-field"] == own["mean-field"] + own["map"]
    assert total["multi-swag"] == own["multi-swag"] + own["deep-ensemble"]


def test_swag_is_the_same_whether_its_start_has_a_row():
    updates = []

    @contextmanager
    def stage(guide):
        yield lambda *seen: updates.append((guide, *seen))

    alone = fit_all(["swag"], net(), DATA, HOW, stage=stage)
    again = fit_all(["mc-dropout", "map", "swag"], net(), DATA, HOW)
    assert torch.equal(alone["swag"].guide.loc, again["swag"].guide.loc)
    assert updates[-1][:3] == ("swag", 3, 3)


def test_a_guide_that_refuses_is_noted_and_what_starts_from_it_too():
    refused = {}
    done = fit_all(["exact", "map"], net(), DATA, HOW, refused=refused)
    assert list(done) == ["map"] and "linear" in refused["exact"]
    with pytest.raises(ValueError, match="linear"):
        fit_all(["exact"], net(), DATA, HOW)
    broken = replace(HOW, swag=None)
    assert "path" in fit_all_refused(["swag"], broken)["swag"]


def fit_all_refused(guides, how):
    refused = {}
    fit_all(guides, net(), DATA, how, refused=refused)
    return refused


def test_one_row_makes_a_guide_fitted_labelled_and_drawn(monkeypatch):
    """All that a guide of one's own needs, here in a module that the package does not know."""
    toy = Recipe(
        label="Toy", family="normal", color="#123456", linestyle="-", marker="x",
        make=lambda how: ToyGuide, start="map",
    )  # fmt: skip
    monkeypatch.setitem(RECIPES, "toy", toy)
    done = fit_all(["toy"], net(), DATA, HOW)
    assert list(done) == ["map", "toy"] and isinstance(done["toy"].guide, ToyGuide)
    assert "toy" in guides_for("layers") and labels_of(["toy", "map"]) == "Toy and MAP"
    figure = loss_panels({g: np.array(done[g].info.losses) for g in done})
    titles = [ax.get_title() for ax in figure.axes]
    assert "Toy" in titles and "MAP" in titles
    assert guide_style("line-toy").color == "#123456"


class ToyGuide(MeanFieldNormal):
    """A guide of one's own."""

    name = "toy"


def test_families_name_known_guides_once_in_a_figure():
    assert one_of_each_family(RECIPES) == [
        "exact", "nuts", "laplace-linearized", "mean-field", "mc-dropout", "deep-ensemble", "map",
    ]  # fmt: skip
    assert one_of_each_family(["swag", "multi-swag"]) == ["swag", "multi-swag"]
