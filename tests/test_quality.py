"""Lint, types, the size of functions, and a quick run of everything."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from web_page import page_facts

from probml_tp.experiments import EXPERIMENTS
from probml_tp.harness.results import read_results

FOLDERS = ("probml_tp", "models", "guides", "experiments")
LONGEST = 80
MEDIAN = 10


def run_tool(*command: str, cwd: Path) -> None:
    """Run a tool of the environment, and fail with what it says."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing(checkout):
    run_tool("ruff", "check", "--no-cache", ".", cwd=checkout)


def test_ruff_would_not_format_anything(checkout):
    run_tool("ruff", "format", "--no-cache", "--check", ".", cwd=checkout)


def test_mypy_finds_nothing(checkout):
    run_tool("mypy", cwd=checkout)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short(checkout):
    lengths = {
        f"{path.relative_to(checkout)}:{node.lineno} {node.name}": body_lines(node)
        for folder in FOLDERS
        for path in (checkout / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
    assert statistics.median(lengths.values()) <= MEDIAN


IMAGES = "--train-size 1000 --test-size 200 --epochs 1 --num-samples 5"
SMALLER = {
    "linear-regression": "--epochs 50 --swag-epochs 20 --warmup 20 --draws 20",
    "nonlinear-regression": "--epochs 50 --swag-epochs 20 --members 2 --warmup 10 --draws 10"
    " --hidden 5 --training-sets 1",
    "logistic-regression": "--epochs 50 --swag-epochs 5 --warmup 20 --draws 20",
    "two-moons": "--epochs 50 --swag-epochs 4 --members 2 --warmup 10 --draws 5"
    " --max-tree-depth 2 --num-samples 20 --resolution 21 --n 300",
    "conjugate-calibration": "--datasets 6 --epochs 50 --stacked-epochs 50 --warmup 20 --draws 20",
    "laplace-vs-vi": "--epochs 30 --warmup 10 --draws 20 --max-tree-depth 2 --steps 3"
    " --elbo-samples 50 --blobs-draws 20 --resamples 20 --num-samples 40",
    "approximation-gap": "--epochs 30 --draws 20 --warmup 20 --resamples 20 --simulations 4",
    "tabular-regression": "--epochs 10 --warmup 5 --draws 10",
    "tabular-classification": "--epochs 5 --members 2",
    "reference-posteriors": "--epochs 50 --warmup 20 --draws 20",
    "mnist-uncertainty": IMAGES,
    "failure-prediction": f"{IMAGES} --confidnet-epochs 2 --cloning-epochs 1 --resamples 50",
    "ood-detection": f"{IMAGES} --ood-size 50 --resamples 50",
    "calibration": IMAGES,
    "distribution-shift": f"{IMAGES} --shift-size 50 --shift-samples 5",
}
"""What makes each experiment's quick run smaller yet."""


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory) -> Path:
    """The results of a small ``probml-tp run``, in a process of its own."""
    assert list(SMALLER) == list(EXPERIMENTS)
    folder = tmp_path_factory.mktemp("quick")
    script = "from probml_tp.cli import main; main()"
    chosen = [word for name, options in SMALLER.items() for word in (name, *options.split())]
    command = [sys.executable, "-c", script, "run", "--quick", "--results", str(folder), *chosen]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder


def test_a_quick_run_saves_every_experiment(quick_run):
    for name in EXPERIMENTS:
        saved = read_results(quick_run / name)
        assert saved.preset.startswith("quick preset with ")
        assert saved.main.rows
        assert saved.findings
        assert saved.figures
        assert list((quick_run / name / "posteriors").glob("*.safetensors"))
        assert list((quick_run / name / "posteriors").glob("*.nc"))


def test_a_browser_shows_the_report_of_a_quick_run(quick_run, browser):
    facts = page_facts(browser, quick_run / "report.html")
    figures = sum(len(read_results(quick_run / name).figures) for name in EXPERIMENTS)
    assert (facts["images"], facts["broken"], facts["unnamed"]) == (figures, 0, 0)
    assert len(facts["headings"]) == 1 + len(EXPERIMENTS)
    assert facts["overflow"] == 0
