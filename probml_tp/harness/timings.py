"""How long each stage of an experiment took in the last recorded run, to foretell the next one.

``timings.json`` beside this module has the seconds of a run of all experiments, by preset; the
command ``python benchmarks/timings.py RESULTS`` writes it from the results of such a run. A run in
the same results folder knows better: it was on the user's own machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from probml_tp.harness.config import Size
from probml_tp.harness.experiment import SharedStage
from probml_tp.storage.schema import conform, read_json

__all__ = ["FILE", "Plan", "foretold", "recorded"]

FILE = "timings.json"

LONGEST = 1e7
"""Seconds that no stage takes: four months."""

Plan = dict[str, dict[str, float]]
"""Experiment to stage to seconds, in the order of the run."""


def recorded(folder: Path) -> dict[str, Any]:
    """The timings of the results in a folder.

    Args:
        folder: of all results.

    Returns:
        Experiment to its ``preset``, the seconds of its ``stages``, and which are ``shared``.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("[!.]*/manifest.json")):
        try:
            manifest = read_json(path)
            entry = {
                "preset": conform(manifest["preset"], str),
                "stages": conform(manifest["timings"], dict[str, float]),
                "shared": conform(manifest["shared_stages"], list[str]),
            }
        except (ValueError, KeyError, TypeError):
            continue  # only a forecast: what is damaged is said when it is read as results
        if all(0 <= seconds < LONGEST for seconds in entry["stages"].values()):
            found[path.parent.name] = entry
    return found


@cache
def _shipped(size: Size) -> dict[str, Any]:
    """The record of a size; of a run that was not recorded in it that of the nearest one."""
    content = json.loads((files("probml_tp.harness") / FILE).read_text("utf-8"))
    return dict(content["quick"] | content.get("default", {}) | content.get(size, {}))


def foretold(jobs: Iterable[tuple[str, Size, str]], folder: Path) -> Plan:
    """What each stage of a run will cost, by the last run that is known.

    Args:
        jobs: of each experiment of the run its name, its size, and its preset as text.
        folder: of the results; an earlier run of the same preset there is believed first.

    Returns:
        The plan. Work that several experiments share costs its time in the first of them.
    """
    own = recorded(folder)
    known: dict[str, Any] = {}
    for name, size, preset in jobs:
        here = own.get(name)
        if here is None or here["preset"] != preset:
            here = _shipped(size).get(name, {"stages": {}, "shared": []})
        known[name] = here
    cost: dict[str, float] = {}
    for entry in known.values():
        for stage in entry["shared"]:
            cost[stage] = max(cost.get(stage, 0.0), entry["stages"].get(stage, 0.0))
    return {name: _once(entry, cost) for name, entry in known.items()}


def _once(entry: Mapping[str, Any], cost: dict[str, float]) -> dict[str, float]:
    """The stages of one experiment; the cost of shared ones is taken, not left for the next."""
    shared = set(entry["shared"])
    return {
        SharedStage(stage) if stage in shared else stage: (
            cost.pop(stage, 0.0) if stage in shared else seconds
        )
        for stage, seconds in entry["stages"].items()
    }
