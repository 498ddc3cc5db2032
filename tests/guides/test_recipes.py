"""The recipes: what starts where, and in which order guides are fitted."""

from __future__ import annotations

import pytest
import torch

from probml_tp.guides.recipes import LAPLACE, Recipes, SwagPath
from probml_tp.kit.common import FAMILIES, labels_of, one_of_each_family
from probml_tp.models import mlp_regressor
from probml_tp.plots.style import GUIDE_STYLES
from probml_tp.priors import NormalPrior

RECIPES = Recipes(
    epochs=20,
    lr=0.01,
    rounds=1,
    rank=1,
    rates={"fc2": 0.1},
    members=2,
    from_mode=("mean-field",),
    swag=SwagPath(lr=1e-3, epochs=3, batch_size=5),
)
OTHERS = ("nuts", "exact")


def fit_all(recipes, guides):
    model = mlp_regressor(1, hidden=(3,), prior=NormalPrior(1.0), likelihood=0.2, seed=0)
    x = torch.linspace(-1, 1, 20).unsqueeze(-1)
    data, done, updates = (x, x[:, 0].sin()), {}, []
    for guide in recipes.order(guides):
        done[guide] = recipes.fit(
            guide, model, data, done=done, update=lambda *seen: updates.append(seen)
        )
    return done, updates


@pytest.fixture(scope="module")
def done():
    return fit_all(RECIPES, [guide for guide in GUIDE_STYLES if guide not in OTHERS])[0]


def test_there_is_a_recipe_for_every_guide_of_a_net(done):
    assert set(done) == set(GUIDE_STYLES) - set(OTHERS)
    own = {guide: guide for guide in done} | dict.fromkeys(LAPLACE, "laplace-linearized")
    own["laplace"] = "laplace"
    assert {guide: posterior.name for guide, posterior in done.items()} == own


def test_starts_come_first_and_once():
    assert RECIPES.order(["swag", "multi-swag", "laplace", "mean-field"]) == [
        "map", "deep-ensemble", "swag", "multi-swag", "laplace", "mean-field",
    ]  # fmt: skip
    assert RECIPES.order(["mc-dropout", "nuts"]) == ["mc-dropout", "nuts"]


def test_seconds_count_the_start(done):
    own = {guide: posterior.info.seconds for guide, posterior in done.items()}
    total = {guide: posterior.info.total_seconds for guide, posterior in done.items()}
    assert total["map"] == own["map"]
    assert total["mean-field"] == own["mean-field"] + own["map"]
    assert total["multi-swag"] == own["multi-swag"] + own["deep-ensemble"]


def test_swag_is_the_same_whether_its_start_has_a_row():
    alone, updates = fit_all(RECIPES, ["swag"])
    again, _ = fit_all(RECIPES, ["mc-dropout", "map", "swag"])
    assert torch.equal(alone["swag"].guide.loc, again["swag"].guide.loc)
    assert updates[-1][:2] == (3, 3)


def test_families_name_known_guides_once():
    named = [guide for family in FAMILIES for guide in family]
    assert len(set(named)) == len(named) and set(named) <= set(GUIDE_STYLES)


def test_one_line_a_family_where_there_are_many():
    assert one_of_each_family(GUIDE_STYLES) == [
        "exact", "nuts", "laplace-linearized", "mean-field", "mc-dropout", "map", "deep-ensemble",
    ]  # fmt: skip
    assert one_of_each_family(["swag", "multi-swag"]) == ["swag", "multi-swag"]


def test_structures_of_laplace_read_well_in_prose():
    assert labels_of(["laplace-kronecker", "laplace-diagonal", "map"]) == (
        "Kronecker Laplace, diagonal Laplace and MAP"
    )
    assert labels_of(["laplace-last-layer"]) == "last layer Laplace"
