"""Roots of the Fisher information, which curvatures are made of, against the matrix itself."""

from __future__ import annotations

import torch
from torch import Tensor

from probml_tp import Categorical, Gaussian
from probml_tp.guides.fisher import fisher_root
from probml_tp.guides.kfac import summed_outer
from probml_tp.likelihoods import HeteroscedasticGaussian

F64 = torch.float64
CLOSE = {"rtol": 1e-10, "atol": 1e-15}


def squared(likelihood: object, outputs: Tensor) -> Tensor:
    root = fisher_root(likelihood, outputs, {})  # type: ignore[arg-type]
    return root @ root.mT


def test_the_softmax_root_is_that_of_the_hessian_in_the_logits_and_has_one_column_less() -> None:
    logits = 3 * torch.randn(50, 7, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert fisher_root(Categorical(7), logits, {}).shape == (50, 7, 6)
    found = squared(Categorical(7), logits)
    for row, one in zip(logits, found, strict=True):
        hessian = torch.autograd.functional.hessian(lambda f: f.logsumexp(0), row)
        torch.testing.assert_close(one, hessian, **CLOSE)


def test_the_softmax_root_leaves_no_curvature_along_a_shift_of_all_logits() -> None:
    sure = 40 * torch.eye(5, dtype=F64)
    for logits in (sure, -sure, torch.zeros(5, 5, dtype=F64)):
        moved = fisher_root(Categorical(5), logits, {}).sum(-2)
        assert float(moved.square().max()) < 1e-30
        expected = Categorical(5).fisher(logits, {})
        torch.testing.assert_close(squared(Categorical(5), logits), expected, **CLOSE)


def test_a_likelihood_with_a_fisher_information_of_its_own_has_the_root_of_that() -> None:
    class Doubled(Categorical):
        def fisher(self, outputs: Tensor, params: object) -> Tensor:
            return 2 * super().fisher(outputs, {})

    logits = torch.randn(9, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    expected = 2 * Categorical(3).fisher(logits, {})
    torch.testing.assert_close(squared(Doubled(3), logits), expected, rtol=1e-10, atol=1e-14)


def test_roots_of_diagonal_information() -> None:
    outputs = torch.randn(9, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
    for likelihood in (Gaussian(scale=0.3), HeteroscedasticGaussian()):
        expected = likelihood.fisher(outputs, {})
        torch.testing.assert_close(squared(likelihood, outputs), expected, **CLOSE)


def test_sums_of_outer_products_do_not_depend_on_how_vectors_lie_in_memory() -> None:
    vectors = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(3))
    expected = torch.einsum("nqmt,nqkt->mk", vectors.double(), vectors.double())
    for laid_out in (vectors, vectors.mT.contiguous().mT):
        torch.testing.assert_close(summed_outer(laid_out), expected, rtol=1e-12, atol=1e-12)
