"""Every public function, class and method, called wrongly: one argument after the other.

The calls are made from the signatures (see ``support/wrong_calls.py``), so that a new function is
among them by itself, and fails here until a valid call of it is known and its wrong ones are
refused.
"""

from __future__ import annotations

import pytest
import torch
from valid_calls import EXPENSIVE, World
from wrong_calls import Target, WrongCall, callables, targets, wrong_calls


@pytest.fixture(scope="module")
def every_target(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    """Every public callable with its valid call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = list(targets(World(tmp_path_factory.mktemp("world"))))
    torch.set_num_threads(threads)
    return found


def test_the_valid_calls_are_valid(every_target: list[Target]) -> None:
    for target in every_target:
        if target.name not in EXPENSIVE:
            target.function(**target.valid)


def test_wrong_calls_are_refused_in_one_line(every_target: list[Target]) -> None:
    """A ValueError that names the argument or its value: nothing taken, no other traceback."""
    calls = [call for target in every_target for call in wrong_calls(target)]
    assert len(calls) > 4000
    outcomes = {str(call): call.outcome() for call in calls}
    wrong = [f"{call}: {outcome}" for call, outcome in outcomes.items() if outcome != "refused"]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(calls)} wrong calls:", *wrong])


def test_public_means_what_the_packages_name() -> None:
    names = {name for name, _ in callables()}
    assert {"fit", "Posterior.predict", "energy", "EarlyStopping", "optimal_aurc"} <= names


def test_what_is_taken_is_reported() -> None:
    """Negative control: a function that checks nothing."""

    def careless(num_samples: int, keep: bool = False) -> None: ...

    import inspect

    target = Target("careless", careless, {"num_samples": 1}, inspect.signature(careless))
    outcomes = {call.outcome() for call in wrong_calls(target)}
    assert outcomes == {"silent: taken without a word"}
    raw = WrongCall(Target("len", lambda x: len(x), {}, inspect.signature(careless)), "x", 3)
    assert raw.outcome().startswith("traceback: TypeError")
