"""The options of experiments as data in a file, so that a help text imports no experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probml_tp.harness.config import Option

__all__ = ["options_as_json", "read_options"]

_KINDS = {kind.__name__: kind for kind in (bool, int, float, str)}


def options_as_json(options: Mapping[str, Iterable[Option]]) -> str:
    """Write options as JSON.

    Args:
        options: experiment to its options.

    Returns:
        The text, which :func:`read_options` reads back.
    """
    parts = [f"{json.dumps(name)}: [\n{_lines(own)}\n]" for name, own in options.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(options: Iterable[Option]) -> str:
    """A line an option."""
    fields = [asdict(option) | {"kind": option.kind.__name__} for option in options]
    return ",\n".join(json.dumps(own, ensure_ascii=False) for own in fields)


def read_options(path: Path) -> dict[str, tuple[Option, ...]]:
    """Read what :func:`options_as_json` wrote.

    Args:
        path: the file.

    Returns:
        Experiment to its options.

    Example:
        >>> import tempfile
        >>> from probml_tp.harness.config import ExperimentConfig
        >>> known = {"demo": ExperimentConfig.options()}
        >>> path = Path(tempfile.mkdtemp()) / "options.json"
        >>> _ = path.write_text(options_as_json(known), encoding="utf-8")
        >>> read_options(path) == known
        True
    """
    table = json.loads(path.read_text(encoding="utf-8"))
    return {name: tuple(map(_option, own)) for name, own in table.items()}


def _option(line: dict[str, Any]) -> Option:
    values = {size: _canonical(value) for size, value in line["values"].items()}
    own = {"kind": _KINDS[line["kind"]], "values": values, "choices": _canonical(line["choices"])}
    return Option(**line | own)


def _canonical(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
