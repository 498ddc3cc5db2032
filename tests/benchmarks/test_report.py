"""What the benchmarks share: markers in the page, and peers that are not there."""

from __future__ import annotations

import importlib

import click
import pytest


@pytest.fixture
def report(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("report")


def test_figures_go_between_the_markers_of_their_name(report, tmp_path):
    page = tmp_path / "benchmarks.md"
    other = "<!-- other: begin -->\nkept\n<!-- other: end -->"
    marked = "before\n\n<!-- mine: begin -->\n{}\n<!-- mine: end -->\n\n" + other + "\n"
    page.write_text(marked.format("old"), "utf-8")
    report.write_section("mine", "new", page)
    assert page.read_text("utf-8") == marked.format("\nnew\n")


@pytest.mark.parametrize("name", ["spine", "laplace", "variational"])
def test_the_page_has_the_markers(report, name):
    text = report.PAGE.read_text("utf-8")
    assert text.count(f"<!-- {name}: begin -->") == 1
    assert text.index(f"<!-- {name}: begin -->") < text.index(f"<!-- {name}: end -->")


def test_a_missing_peer_says_what_to_install(report):
    with pytest.raises(click.ClickException, match=r"pip install -e \. -r benchmarks/requirement"):
        report.peer("no_such_peer_of_ours")


def test_requirements_name_every_peer(report, checkout):
    lines = (checkout / "benchmarks" / "requirements.txt").read_text("utf-8").splitlines()
    required = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert {"laplace-torch", "bayesian-torch", "torch-uncertainty", "lightning"} <= required


def test_aims_are_met_up_to_their_limit(report):
    assert report.verdict("x", "at most 1.1", 1.1, 1.1) == "- x (aim: at most 1.1): met."
    assert report.verdict("x", "at most 1.1", 1.2, 1.1).endswith("**missed**.")
