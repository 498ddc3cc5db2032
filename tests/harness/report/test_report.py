"""The report: complete, self-contained, escaped, readable in a browser."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import demo_experiment as demo
import pytest
from web_page import page_facts

from probml_tp.harness.experiment import MAIN_TABLE, Table, run_experiment
from probml_tp.harness.report import build_report
from probml_tp.harness.results import write_digests, write_results


def save(folder, experiment=demo.EXPERIMENT, **options):
    results = run_experiment(experiment, experiment.config(**options))
    return write_results(results, experiment, folder)


@pytest.fixture
def page(tmp_path):
    """A page of two experiments, one of them on fallback data."""
    save(tmp_path)
    save(tmp_path, demo.WITH_DATA, fallback=True, guides=demo.GUIDES)
    return build_report(tmp_path)


def test_the_page_needs_no_other_file_and_no_network(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<link" not in text
    assert "http" not in text
    targets = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)


def test_findings_presets_data_and_environment_are_shown(page):
    text = page.read_text(encoding="utf-8")
    for part in (
        "The mean of 30 draws is",
        "default preset with guides = map laplace mean-field mc-dropout nuts, fallback = True",
        "digits rendered from fonts; MNIST could not be had",
        "Standard deviation (m)\N{NO-BREAK SPACE}↓",
        "The draws spread evenly",
        "A histogram for each guide.",
        "pyro-ppl",
        "make data",
    ):
        assert part in text


def test_order_is_as_asked_then_by_name(tmp_path):
    save(tmp_path)
    save(tmp_path, demo.WITH_DATA)

    def sections(**options):
        text = build_report(tmp_path, **options).read_text(encoding="utf-8")
        return re.findall(r'<section id="([^"]*)"', text)

    assert sections() == ["demo", "demo-data"]
    assert sections(order=["demo-data", "never-run"]) == ["demo-data", "demo"]


def test_text_is_escaped(tmp_path):
    results = run_experiment(demo.EXPERIMENT, demo.Config())
    results.findings = ["1 < 2 & <script>alert(1)</script>"]
    results.title = '"Quoted" <b>title</b>'
    write_results(results, demo.EXPERIMENT, tmp_path)
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "1 &lt; 2 &amp; &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>title" not in text


def test_there_is_no_warning_without_fallback_data(tmp_path):
    save(tmp_path)
    assert "Fallback" not in build_report(tmp_path).read_text(encoding="utf-8")


def test_an_experiment_without_metrics_findings_or_figures_has_a_section(tmp_path):
    experiment = replace(demo.EXPERIMENT, figures=lambda results: ())
    results = run_experiment(experiment, demo.Config())
    results.main, results.findings = Table(MAIN_TABLE, "Posterior"), []
    write_results(results, experiment, tmp_path)
    assert "A demonstration" in build_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs the results of at least one.*probml-tp run"):
        build_report(tmp_path)


def test_a_missing_figure_is_refused_and_the_earlier_page_stays(page):
    before = page.read_bytes()
    (page.parent / "demo" / "figures" / "draws.png").unlink()
    with pytest.raises(ValueError, match="draws.png is not readable.*Run the experiment again"):
        build_report(page.parent)
    assert page.read_bytes() == before
    assert sorted(os.listdir(page.parent)) == ["demo", "demo-data", "report.html"]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
def test_a_damaged_figure_is_refused(tmp_path, damage):
    path = save(tmp_path) / "figures" / "draws.png"
    whole = path.read_bytes()
    flipped = whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]
    content = {"empty": b"", "text": b"no image", "truncated": whole[:-20], "flipped": flipped}
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=r"draws\.png is not readable \(no whole PNG\)\. Run"):
        build_report(tmp_path)


def test_the_largest_numbers_can_be_shown(tmp_path):
    folder = save(tmp_path, guides=("map",))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["timings"] = {"fit": 1e308, "make data": 1e308}
    path.write_text(json.dumps(manifest))
    lines = json.loads((folder / "metrics.json").read_text())
    lines[0] |= {"value": 1e308, "low": -1e308, "high": 1e308}
    lines[1] |= {"value": 5e-324, "low": 5e-324, "high": 1e-300}
    (folder / "metrics.json").write_text(json.dumps(lines))
    write_digests(folder)
    assert "e\N{MINUS SIGN}324" in build_report(tmp_path).read_text(encoding="utf-8")


def test_a_browser_shows_every_image_and_fits_a_telephone(page, browser):
    facts = page_facts(browser, page)
    assert facts["title"] == "probml_tp report"
    assert (facts["images"], facts["broken"], facts["unnamed"]) == (2, 0, 0)
    assert facts["headings"] == [
        "What was run",
        "A demonstration",
        "A demonstration with data from None",
    ]
    assert facts["warnings"] == 1
    assert facts["bold"] == []
    assert facts["narrow"] > 380
    assert facts["overflow"] == 0


def test_the_browser_check_sees_a_broken_image_and_an_overflow(page, browser):
    text = page.read_text(encoding="utf-8")
    broken = text.replace('src="data:image/png;base64,', 'src="data:image/png;base64,AAAA', 1)
    page.write_text(broken.replace("<main>", "<main><p style='width:900px'>wide</p>"), "utf-8")
    facts = page_facts(browser, page)
    assert (facts["images"], facts["broken"]) == (2, 1)
    assert facts["overflow"] > 400
