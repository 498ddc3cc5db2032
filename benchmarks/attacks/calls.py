"""Wrong calls of every public function, from the table of the tests."""

from __future__ import annotations

from pathlib import Path

from valid_calls import World
from wrong_calls import WrongCall, targets, wrong_calls

from attacks.outcomes import Tally, in_children

__all__ = ["call_wrongly"]


def call_wrongly(folder: Path) -> Tally:
    """Each public callable, each argument in turn, each value that its type rules out."""
    world = World(folder)
    calls = [call for target in targets(world) for call in wrong_calls(target)]
    tally = Tally("wrong calls of the API")
    for call, outcome in zip(calls, in_children(calls, _judge), strict=True):
        tally.add(call, outcome)
    return tally


def _judge(call: WrongCall) -> str:
    return call.outcome().replace("message:", "traceback: unhelpful message:")
