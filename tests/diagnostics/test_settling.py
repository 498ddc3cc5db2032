"""The step left to a variational optimum: of which guides, and where it is found."""

from __future__ import annotations

from functools import partial

import pytest
from guide_cases import build

from probml_tp import LowRankNormal, MeanFieldNormal, Posterior, fit
from probml_tp.diagnostics import settling, step_left
from probml_tp.models import dugongs_line


@pytest.mark.parametrize("name", ["laplace", "map", "mc-dropout"])
def test_what_maximises_no_bound_over_normals_is_refused(name):
    guide, case = build(name, "mlp")
    with pytest.raises(ValueError, match="a normal that maximises the evidence lower bound"):
        step_left(Posterior(guide), (case.x, case.y))


def test_a_tempered_one_is_refused():
    classic = dugongs_line()
    tempered = MeanFieldNormal(classic.model, temperature=0.5)
    with pytest.raises(ValueError, match="maximises the evidence lower bound"):
        step_left(Posterior(tempered), classic.data)


@pytest.mark.parametrize("guide", [MeanFieldNormal, partial(LowRankNormal, rank=2)])
def test_chunks_change_nothing(guide, monkeypatch):
    classic = dugongs_line()
    posterior = fit(classic.model, guide, classic.data, epochs=20, lr=0.02, progress=False)
    whole = step_left(posterior, classic.data, num_samples=200)
    monkeypatch.setattr(settling, "CHUNK_WORK", 300)
    parts = step_left(posterior, classic.data, num_samples=200)
    assert parts.value == pytest.approx(whole.value, rel=1e-9)
    assert not whole.is_settled
