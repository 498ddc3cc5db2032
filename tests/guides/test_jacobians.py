"""Per-example gradients as outer products, against autograd's Jacobian of everything at once."""

from __future__ import annotations

import pytest
import torch
from model_cases import CASES, F64, Case, random_flat
from torch import Tensor, nn
from torch.func import jacrev

from probml_tp import BayesianModel, Categorical, Gaussian, NormalPrior
from probml_tp.guides import jacobians
from probml_tp.guides.jacobians import (
    Dense,
    Outer,
    gradient_rows,
    plain_layers,
    sum_of_products,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
NAMES = [
    "mlp", "mlp-2-targets", "classifier-3", "lenet-small", "tied", "residual", "batch-norm",
    "embedding", "positive-weights", "mlp-half-normal", "linear",
]  # fmt: skip


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


def jacobian_of_outputs(model: BayesianModel, flat: Tensor, x: Tensor) -> Tensor:
    """``(N, k, P)``, by reverse mode over the whole batch."""

    def outputs(u: Tensor) -> Tensor:
        return model.outputs(model.constrain(model.layout.unravel(u)), x)

    return jacrev(outputs)(flat)


def rows_of_outputs(
    model: BayesianModel, flat: Tensor, x: Tensor, sites: list[str] | None = None
) -> list[tuple[slice, Tensor, dict[str, Dense | Outer]]]:
    return list(
        gradient_rows(
            model, flat, x, x, lambda outputs, *_: outputs, sites=sites or list(model.sites)
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_jacobian(name: str) -> None:
    case = checked(name)
    flat = random_flat(case.model, seed=4)
    ((part, outputs, rows),) = rows_of_outputs(case.model, flat, case.x)
    assert part == slice(0, case.size)
    expected = jacobian_of_outputs(case.model, flat, case.x)
    ours = torch.cat([rows[n].dense() for n in case.model.sites], -1)
    torch.testing.assert_close(ours, expected, **CLOSE)
    params = case.model.constrain(case.model.layout.unravel(flat))
    torch.testing.assert_close(outputs, case.model.outputs(params, case.x), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_squares_grams_and_products_are_those_of_the_dense_rows(name: str) -> None:
    case = checked(name)
    flat = random_flat(case.model, seed=4)
    ((_, _, rows),) = rows_of_outputs(case.model, flat, case.x)
    generator = torch.Generator().manual_seed(0)
    for row in rows.values():
        dense = row.dense()
        variance = torch.rand(dense.shape[-1], generator=generator, dtype=F64)
        matrix = torch.randn(dense.shape[-1], 3, generator=generator, dtype=F64)
        torch.testing.assert_close(row.squares(), dense.square().sum((0, 1)), **CLOSE)
        torch.testing.assert_close(row.times(matrix), dense @ matrix, **CLOSE)
        shaped = variance
        if isinstance(row, Outer):
            shaped = variance.view(row.gradients.shape[2], row.inputs.shape[1])
        expected = torch.einsum("nqp,p,nrp->nqr", dense, variance, dense)
        torch.testing.assert_close(row.gram(shaped), expected, **CLOSE)


@pytest.mark.parametrize("name", ["classifier-3", "lenet-small", "residual", "mlp-2-targets"])
def test_sums_of_products_are_those_of_the_dense_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = checked(name)
    ((_, _, rows),) = rows_of_outputs(case.model, random_flat(case.model), case.x)
    for small in (jacobians.SMALL, 0):  # dense, and by pairs of outputs wherever there are several
        monkeypatch.setattr(jacobians, "SMALL", small)
        for first in rows.values():
            for second in rows.values():
                g, h = (row.dense().flatten(0, 1) for row in (first, second))
                torch.testing.assert_close(sum_of_products(first, second), g.mT @ h, **CLOSE)


@pytest.mark.parametrize("name", ["classifier-3", "lenet-small"])
def test_rotations_act_on_both_sides(name: str) -> None:
    case = checked(name)
    ((_, _, rows),) = rows_of_outputs(case.model, random_flat(case.model), case.x)
    for row in rows.values():
        if isinstance(row, Outer):
            m, k = row.gradients.shape[2], row.inputs.shape[1]
            u, v = torch.randn(m, m, dtype=F64), torch.randn(k, k, dtype=F64)
            expected = u.mT @ row.dense().unflatten(-1, (m, k)) @ v
            torch.testing.assert_close(row.rotate(u, v).dense(), expected.flatten(-2), **CLOSE)


def test_linear_layers_stay_outer_products_and_others_do_not() -> None:
    case = checked("residual")
    ((_, _, rows),) = rows_of_outputs(case.model, random_flat(case.model), case.x)
    kinds = {name: type(row) for name, row in rows.items()}
    assert kinds["inner.0.weight"] is Outer
    assert kinds["gain"] is Dense
    assert kinds["inner.1.weight"] is Dense
    assert set(plain_layers(case.model)) == {"inner.0", "inner.3", "head"}
    assert "first" not in plain_layers(CASES["tied"]().model)
    assert "2" not in plain_layers(CASES["positive-weights"]().model)


def test_chunks_are_bounded_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    case = checked("lenet-small")
    flat = random_flat(case.model)
    ((_, _, whole),) = rows_of_outputs(case.model, flat, case.x)
    monkeypatch.setattr(jacobians, "MAX_ELEMENTS", 2000)
    chunks = rows_of_outputs(case.model, flat, case.x)
    assert len(chunks) > 1
    for name, row in whole.items():
        joined = torch.cat([rows[name].dense() for _, _, rows in chunks])
        torch.testing.assert_close(joined, row.dense(), **CLOSE)


class Twice(nn.Module):
    """A layer called twice: its gradient is no single outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class ReadElsewhere(nn.Module):
    """A layer called once whose weight the net uses a second time, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        return self.head(torch.tanh(nn.functional.linear(hidden, self.layer.weight)))


class PerPosition(nn.Module):
    """Layers on sequences, on folded rows, and one whose output is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.folded = nn.Linear(2, 3), nn.Linear(3, 2)
        self.idle, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.tokens(x))
        rows = torch.tanh(self.folded(hidden.flatten(0, 1))).unflatten(0, x.shape[:2])
        self.idle(rows[:, 0])
        return self.head(rows.mean(1))


class GroupedConvolution(nn.Module):
    """Grouped, strided, dilated and padded convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(4, 4, (2, 1), dilation=(2, 1))
        self.grouped = nn.Conv2d(4, 4, 2, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.dilated(torch.tanh(self.strided(x))))
        return self.head(torch.tanh(self.grouped(hidden)).mean((-1, -2)))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Twice, (5, 2)),
        (ReadElsewhere, (5, 2)),
        (PerPosition, (5, 3, 2)),
        (GroupedConvolution, (4, 2, 9, 9)),
    ],
)
def test_unusual_nets_have_their_jacobian_too(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = net().double(), torch.randn(shape, dtype=F64)
    likelihood = Gaussian(0.3) if net in (Twice, ReadElsewhere) else Categorical(2)
    model = BayesianModel(module, NormalPrior(1.0), likelihood)
    flat = random_flat(model)
    ((_, _, rows),) = rows_of_outputs(model, flat, x)
    ours = torch.cat([rows[n].dense() for n in model.sites], -1)
    torch.testing.assert_close(ours, jacobian_of_outputs(model, flat, x), **CLOSE)
    kinds = {name: type(row) for name, row in rows.items()}
    if net in (Twice, ReadElsewhere):
        assert kinds["layer.weight"] is Dense
    if net is PerPosition:
        assert (kinds["tokens.weight"], kinds["folded.weight"]) == (Outer, Dense)
    if net is GroupedConvolution:
        assert (kinds["strided.weight"], kinds["grouped.weight"]) == (Outer, Dense)


def test_only_the_sites_asked_for_are_differentiated() -> None:
    case = checked("lenet-small")
    flat = random_flat(case.model)
    ((_, _, rows),) = rows_of_outputs(case.model, flat, case.x, ["fc2.bias", "conv1.weight"])
    assert list(rows) == ["fc2.bias", "conv1.weight"]
    expected = jacobian_of_outputs(case.model, flat, case.x)
    place = case.model.layout.slices["conv1.weight"]
    torch.testing.assert_close(rows["conv1.weight"].dense(), expected[..., place], **CLOSE)
