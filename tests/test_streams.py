"""Every purpose has random numbers of its own."""

from __future__ import annotations

import ast

import pytest

from probml_tp.streams import Stream, substream
from tests.test_layers import MODULES


def streams_of(source: str) -> list[str]:
    """What each call of ``substream`` in a source passes as its stream."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call.args[1]) if len(call.args) > 1 else "none"
        for call in calls
        if ast.unparse(call.func).endswith("substream")
    ]


SOURCES = {module: path.read_text("utf-8") for module, path in MODULES.items()}
PASSED = {name: streams_of(source) for name, source in SOURCES.items() if "substream" in source}


def test_every_purpose_has_a_stream_of_its_own():
    numbers = [stream.value for stream in Stream.__members__.values()]
    assert len(set(numbers)) == len(numbers)
    seeds = [substream(0, stream) for stream in Stream]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("module", [module for module, passed in PASSED.items() if passed])
def test_every_call_names_its_stream(module):
    assert [s for s in PASSED[module] if s.removeprefix("Stream.") not in Stream.__members__] == []


def test_every_stream_is_used():
    assert {s for passed in PASSED.values() for s in passed} == {f"Stream.{s.name}" for s in Stream}


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("substream(seed, 4, index)", "4"),
        ("draws.substream(seed, index)", "index"),
        ("seeded(substream(seed))", "none"),
        ("substream(seed, Stream.CHAINS)", "Stream.CHAINS"),
    ],
)
def test_a_bare_number_is_seen(call, found):
    assert streams_of(call) == [found]
