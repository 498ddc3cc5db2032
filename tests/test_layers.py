"""Dependencies run one way: numerics, inference, diagnostics, experiments, command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "probml_tp"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

TOP = {"cli", "click_options", "choosing"}
"""The command line, and the one call that fits, judges and reports: nothing imports them."""

OUTER = {"models", "guides", "experiments"}
"""What users add to: the core knows none of it."""

SHOWING = {"plots", "report", "results", "progress"}
"""What reads results."""

NUMERICS = {
    "model",
    "priors",
    "likelihoods",
    "guide",
    "predictive",
    "target_mixture",
    "contracts",
    "distribution_functions",
    "layout",
    "metrics",
    "detection",
    "selective",
    "calibration",
    "conformal",
    "resampling",
    "comparison",
    "links",
    "moments",
}

JUDGING = {"diagnostics", "scores"}

COMPUTING = NUMERICS | JUDGING | {"inference", "posterior"}

FORBIDDEN: dict[str, set[str]] = {
    **dict.fromkeys(NUMERICS, SHOWING | JUDGING | {"inference", "posterior", "datasets"}),
    "inference": SHOWING | JUDGING | {"datasets"},
    "posterior": SHOWING | {"scores", "datasets"},
    "diagnostics": SHOWING | {"datasets"},
    "scores": SHOWING | {"datasets"},
    "datasets": SHOWING | COMPUTING,
    "plots": COMPUTING - {"predictive", "metrics"},
    "report": COMPUTING | {"datasets"},
    "results": COMPUTING | {"datasets"},
    "progress": COMPUTING | {"datasets"},
    "experiment": COMPUTING | SHOWING | {"datasets"},
    "config": COMPUTING | SHOWING | {"datasets"},
    "models": SHOWING | {"guides", "experiments", "datasets", "inference"},
    "guides": SHOWING | {"models", "experiments", "datasets"},
    "experiments": {"report", "results", "progress"},
}
FACADE = {"__init__"} | TOP

HEAVY = {"torch", "pyro", "arviz", "sklearn", "torchvision", "mlxtend"}
LIGHT = {"cli", "click_options", "config", "experiment", "environment", "progress", "results"}
"""Modules that have to import fast: whoever asks for help should not wait for torch."""


def layer_of(module: str) -> str:
    """The part of the package that a module belongs to: the name after the first dot."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that a source imports, wherever in it, less those for type checking only."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package=is_package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The module that ``from ... import`` names, with its leading dots resolved."""
    if not node.level:
        return node.module or ""
    parents = module.split(".")[: None if is_package and node.level == 1 else -node.level]
    if is_package and node.level > 1:
        parents = module.split(".")[: 1 - node.level]
    return ".".join([*parents, *filter(None, [node.module])])


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports although its layer must not."""
    layer = layer_of(module)
    if layer in FACADE:
        return []
    forbidden = FORBIDDEN.get(layer, set()) | TOP
    if layer not in OUTER:
        forbidden = forbidden | OUTER
    return [
        name
        for name in imports(source, module, is_package=is_package)
        if name.startswith(f"{PACKAGE}.") and layer_of(name) in forbidden
    ]


def modules() -> dict[str, Path]:
    """Every module of the package, those behind the symbolic links included."""
    folders = [ROOT, *(ROOT / name for name in sorted(OUTER))]
    files = {path for folder in folders for path in folder.rglob("*.py")}
    return {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted(files)
    }


MODULES = modules()


def test_the_modules_behind_the_links_are_seen():
    assert {"probml_tp.experiments", "probml_tp.experiment"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_run_one_way(module):
    path = MODULES[module]
    found = violations(path.read_text("utf-8"), module, is_package=path.stem == "__init__")
    assert found == []


@pytest.mark.parametrize("module", sorted(LIGHT | {"report.build", "report.tables"}))
def test_the_command_line_imports_nothing_heavy(module):
    source = MODULES[f"{PACKAGE}.{module}"].read_text("utf-8")
    names = imports(source, f"{PACKAGE}.{module}", is_package=False)
    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize(
    ("module", "source", "culprit"),
    [
        ("model", "from probml_tp.guides import Laplace", "probml_tp.guides.Laplace"),
        ("model", "from probml_tp import inference", "probml_tp.inference"),
        ("model", "import probml_tp.models.linear", "probml_tp.models.linear"),
        ("inference.svi", "from ..diagnostics import loo", "probml_tp.diagnostics.loo"),
        ("inference.svi", "def f():\n    from .. import models", "probml_tp.models"),
        (
            "plots.bands",
            "from probml_tp.posterior import Posterior",
            "probml_tp.posterior.Posterior",
        ),
        ("report.build", "from probml_tp import inference", "probml_tp.inference"),
        ("datasets.toy", "from probml_tp.cli import main", "probml_tp.cli.main"),
        (
            "guides.delta",
            "from ..experiments import EXPERIMENTS",
            "probml_tp.experiments.EXPERIMENTS",
        ),
        ("experiments.x", "from probml_tp.cli import main", "probml_tp.cli.main"),
    ],
)
def test_a_violation_is_seen(module, source, culprit):
    assert violations(source, f"{PACKAGE}.{module}") == [culprit]


def test_a_package_resolves_its_own_dots():
    source = "from . import svi\nfrom .. import models\nfrom .mcmc import run"
    found = list(imports(source, "probml_tp.inference", is_package=True))
    assert found == ["probml_tp.inference.svi", "probml_tp.models", "probml_tp.inference.mcmc.run"]


def test_imports_for_type_checking_are_free():
    source = "if TYPE_CHECKING:\n    from probml_tp.guides import Laplace"
    assert violations(source, "probml_tp.model") == []
