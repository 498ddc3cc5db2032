"""The house in figures: rooms, ties between files, circles, bodies, arguments; plain ``ast``.

python benchmarks/house.py                 # this checkout
python benchmarks/house.py OTHER_CHECKOUT  # another one, to stand beside it
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import quantiles

PACKAGE = "probml_tp"
OUTER = ("models", "guides", "experiments")
GUIDE = "low-rank-normal"
"""Any guide does: in how many files is it named?"""

TEXT = ("str", "list[str]", "tuple[str, ...]", "Iterator[str]", "Sequence[str]", "dict[str, str]")
WORDS = 3
"""Words of an f-string or string that make a function one that writes prose."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its name, those behind the links once."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[1] not in OUTER:
            found[".".join(parts)] = path
    for folder in OUTER:
        for path in sorted((root / folder).rglob("*.py")):
            found[".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts))] = path
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def imported(tree: ast.AST, name: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules that a module imports, wherever in it, less those for type checking only."""
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
            base = parent[: len(parent) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            while full and full not in known:
                full = full.rpartition(".")[0]
            if full:
                found.add(full)
    return found - {name}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of files each of which leads to each other by imports (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph[node]:
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            members = []
            while not members or members[-1] != node:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method."""
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: Function) -> int:
    """Lines of a body, less its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def writes_prose(function: Function) -> bool:
    """Whether it returns text and has sentences in it that are no error's."""
    if function.returns is None or ast.unparse(function.returns) not in TEXT:
        return False
    errors = {id(i) for n in ast.walk(function) if isinstance(n, ast.Raise) for i in ast.walk(n)}
    doc = function.body[0] if ast.get_docstring(function) else None
    return any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in errors
        and not (isinstance(doc, ast.Expr) and node is doc.value)
        and len(node.value.split()) >= WORDS
        for node in ast.walk(function)
    )


def arguments(function: Function) -> int:
    """How many it takes, less ``self`` and ``cls``."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len([n for n in names if n not in ("self", "cls")]) + len(function.args.kwonlyargs)


def measure(root: Path) -> list[str]:
    """The lines to print."""
    known = modules(root)
    sources = {name: path.read_text("utf-8") for name, path in known.items()}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    graph = {n: imported(t, n, known[n], known) for n, t in trees.items()}
    lines = {name: source.count("\n") for name, source in sources.items()}
    rooms: dict[str, list[int]] = {}
    for name, path in known.items():
        folder = str(path.relative_to(root).parent)
        rooms.setdefault(folder, []).append(lines[name])
    told = [f"{sum(map(len, rooms.values()))} files, {sum(lines.values()):,} lines"]
    told += [f"  {room}: {len(n)} files, {sum(n):,} lines" for room, n in sorted(rooms.items())]

    def lives_in(name: str, folder: str) -> bool:
        return name.startswith(f"{PACKAGE}.{folder}.")

    own = {n for n in known if lives_in(n, "experiments")}
    ties = sum(len(graph[n] & own) for n in own)
    told.append(f"experiments: {sum(lines[n] for n in own):,} lines, {ties} imports among them")
    up = [
        f"{n} -> {m}"
        for n, others in graph.items()
        for m in others
        if lives_in(m, "experiments") and not lives_in(n, "experiments") and not n.endswith("cli")
    ]
    told.append(f"arrows up into experiments: {len(up)} {sorted(up)}")
    round_ = circles(graph)
    sizes = [len(members) for members in round_]
    told.append(f"circles: {len(round_)} (files in them: {sizes})")
    named = sorted(n for n, source in sources.items() if f'"{GUIDE}"' in source)
    places = sum(sources[n].count(f'"{GUIDE}"') for n in named)
    told.append(f"files that name {GUIDE}: {len(named)}, {places} places")
    every = [(f, n) for n, tree in trees.items() for f in functions(tree)]
    prose = [f for f, _ in every if writes_prose(f)]
    told.append(f"prose functions: {len(prose)}, {sum(map(body_lines, prose)):,} lines")
    bodies = sorted(((body_lines(f), f"{n}.{f.name}") for f, n in every), reverse=True)
    p90 = quantiles([size for size, _ in bodies], n=10)[-1]
    told.append(f"bodies: p90 {p90:.0f} lines, longest {bodies[0][0]} ({bodies[0][1]})")
    told.append(f"bodies over 64 lines: {[b for b in bodies if b[0] > 64]}")
    public = [(arguments(f), f"{n}.{f.name}") for f, n in every if not f.name.startswith("_")]
    told.append(f"most arguments of a public function: {sorted(public, reverse=True)[:5]}")
    long = sorted(((size, name) for name, size in lines.items() if size > 400), reverse=True)
    told.append(f"files over 400 lines: {len(long)} {long}")
    return told


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    print("\n".join(measure(where)))
