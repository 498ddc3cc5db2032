"""What the words of a finding may quote besides its own selection."""

from __future__ import annotations

import numpy as np
import pytest

from probml_tp.harness.experiment import MAIN_TABLE, ExperimentConfig, Results, Table
from probml_tp.kit.sentences import Count, Gap, Range, runs, tell, together


@pytest.fixture
def results() -> Results[ExperimentConfig]:
    values = {"map": {"ece": 0.3}, "laplace": {"ece": 0.1}, "oracle": {"ece": 0.0}}
    ends = {"map": {"ece": (0.2, 0.4)}, "laplace": {"ece": (-0.1, 0.3)}}
    table = Table(MAIN_TABLE, "", values, {"ece": ""}, ends)
    size = {"size": np.array(1200)}
    return Results("x", "X", ExperimentConfig(), table, [], "", arrays=size)


def test_arrays_and_rows_that_do_not_count_may_be_quoted(results):
    finding = Range(
        "ece",
        "On {arrays[size]:,} images {n} rows run {range}; the oracle has {values[oracle]}.",
        rows=lambda row: row != "oracle",
    )
    assert tell([finding], results) == [
        "On 1,200 images 2 rows run from 0.1 (Laplace) to 0.3 (MAP); the oracle has 0."
    ]


def test_gaps_are_counted_by_their_side_of_nothing(results):
    finding = Gap("ece", "{n_above} above, {n_below} below: {above}; {below}.")
    assert tell([finding], results) == ["1 above, 0 below: MAP; none."]


def test_a_count_of_none_has_words_of_its_own_or_nothing(results):
    def is_large(value: float) -> bool:
        return value > 1

    assert tell([Count("ece", "{which}", rule=is_large)], results) == []
    assert tell([Count("ece", "", rule=is_large, none="None of {n}.")], results) == ["None of 3."]
    assert tell([Count("ece", "", rule=bool, none="None of {n}.")], results) == []


def test_findings_in_one_breath_need_the_first(results):
    parts = Range("ece", "{low}"), Range("ece", "{high}")
    assert tell([together(*parts, joint=" to ", start="From ")], results) == ["From 0 to 0.3"]
    assert tell([together(Range("nll", ""), *parts)], results) == []


def test_one_value_for_all_is_no_range():
    assert runs({"map": 0.1}, "{:.1f}".format) == "is 0.1"
    assert runs({"map": 0.101, "laplace": 0.1}, "{:.1f}".format) == "is 0.1 for all"
    found = runs({"map": 1, "swag": 2, "laplace": 3}, "{:.0f}".format, reference="swag")
    assert found == "runs from 1 (MAP) to 3 (Laplace); SWAG: 2"
