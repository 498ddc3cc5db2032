"""Dependencies run one way: numerics, inference, diagnostics, experiments, command line."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "probml_tp"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

TOP = {"cli", "cli_sweep", "harness.click_options"}
"""The command line: nothing imports it."""

OUTER = {"models", "guides", "experiments"}
"""What users add to: the core knows none of it."""

STUDIES = {"kit", "gap"}
"""What compares posteriors and says which to use: it may know the guides, only studies know it."""

SHOWING = {"plots", "harness.report", "harness.results", "harness.progress"}
"""What reads results."""

NUMERICS = {
    "model",
    "priors",
    "likelihoods",
    "guide",
    "empirical",
    "contracts",
    "layout",
    "identity",
    "checks",
    "metrics",
    "predictions",
    "streams",
}

JUDGING = {"diagnostics", "scores", "records"}

COMPUTING = NUMERICS | JUDGING | {"inference", "posterior"}

FORBIDDEN: dict[str, set[str]] = {
    **dict.fromkeys(NUMERICS, SHOWING | JUDGING | {"inference", "posterior", "datasets"}),
    "inference": SHOWING | JUDGING | {"datasets"},
    "posterior": SHOWING | {"diagnostics", "scores", "datasets"},
    "records": SHOWING | {"diagnostics", "scores", "posterior", "inference", "datasets"},
    "diagnostics": SHOWING | {"datasets"},
    "scores": SHOWING | {"datasets"},
    "datasets": SHOWING | COMPUTING - {"checks"},
    "plots": COMPUTING - {"predictions", "metrics"},
    "harness.report": COMPUTING | {"datasets"},
    "harness.results": COMPUTING | {"datasets"},
    "harness.progress": COMPUTING | {"datasets"},
    "harness.experiment": COMPUTING | SHOWING | {"datasets"},
    "harness.config": COMPUTING | SHOWING | {"datasets"},
    "harness.option_table": COMPUTING | SHOWING | {"datasets"},
    "storage": COMPUTING | SHOWING | {"datasets", "harness"},
    "models": SHOWING | STUDIES | {"guides", "experiments", "datasets", "inference"},
    "guides": SHOWING | STUDIES | {"models", "experiments", "datasets"},
    "kit": SHOWING - {"plots"} | OUTER | {"gap"},
    "gap": {"models", "experiments", "harness.progress"},
    "experiments": SHOWING - {"plots"},
}
FACADE = {"__init__"} | TOP

HEAVY = {"torch", "pyro", "arviz", "sklearn", "torchvision", "mlxtend"}
LIGHT = {"cli", "cli_sweep", "environment"} | {
    f"harness.{name}"
    for name in ("click_options", "config", "experiment", "option_table", "progress", "results")
}
"""Modules that have to import fast: whoever asks for help should not wait for torch."""


def layer_of(module: str) -> str:
    """The part of the package that a module belongs to; the harness has layers of its own."""
    parts = module.split(".")
    if parts[1:2] == ["harness"] and len(parts) > 2:
        return ".".join(parts[1:3])
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
    if layer == "plots":  # draws each guide as its recipe says
        forbidden = forbidden | STUDIES | OUTER - {"guides"}
    elif layer not in OUTER | STUDIES:
        forbidden = forbidden | OUTER | STUDIES
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
    assert {"probml_tp.experiments", "probml_tp.harness.experiment"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_run_one_way(module):
    path = MODULES[module]
    found = violations(path.read_text("utf-8"), module, is_package=path.stem == "__init__")
    assert found == []


@pytest.mark.parametrize(
    "module", sorted(LIGHT | {f"harness.report.{name}" for name in ("build", "tables")})
)
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
        ("harness.report.build", "from probml_tp import inference", "probml_tp.inference"),
        ("diagnostics.loo", "from probml_tp.gap import compare", "probml_tp.gap.compare"),
        ("gap.page", "from probml_tp import experiments", "probml_tp.experiments"),
        ("plots.style", "from probml_tp.gap import compare", "probml_tp.gap.compare"),
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


def circle(sources: Mapping[str, tuple[str, bool]]) -> list[str]:
    """Files each of which imports the next, back to the first; none where there are none."""
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        names = imports(source, module, is_package=is_package)
        graph[module] = {file_of(name, sources) for name in names} - {None, module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def file_of(name: str, known: Collection[str]) -> str | None:
    """The file that an imported name is in: its module, or the package that exports it."""
    return name if name in known or not name else file_of(name.rpartition(".")[0], known) or None


def test_no_file_imports_itself_by_way_of_others():
    assert (
        circle({m: (p.read_text("utf-8"), p.stem == "__init__") for m, p in MODULES.items()}) == []
    )


def test_a_circle_is_seen():
    sources = {
        "probml_tp.a": ("from probml_tp import b", False),
        "probml_tp.b": ("def late():\n    from .c.d import name", False),
        "probml_tp.c.d": ("import probml_tp.a", False),
    }
    found = circle(sources)
    assert len(found) == 4
    assert found[0] == found[-1]
    assert circle(sources | {"probml_tp.b": ("from .c import e", False)}) == []


def test_a_package_resolves_its_own_dots():
    source = "from . import svi\nfrom .. import models\nfrom .nuts import run"
    found = list(imports(source, "probml_tp.inference", is_package=True))
    assert found == [
        "probml_tp.inference.svi",
        "probml_tp.models",
        "probml_tp.inference.nuts.run",
    ]


def test_imports_for_type_checking_are_free():
    source = "if TYPE_CHECKING:\n    from probml_tp.guides import Laplace"
    assert violations(source, "probml_tp.model") == []
