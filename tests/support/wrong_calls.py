"""Wrong calls of every public function, class and method, made from their signatures.

Public is what the packages and modules directly in ``probml_tp`` name in their ``__all__``, less
those in ``INTERNAL``, and what the modules in ``ROOMS`` do. Each callable gets one valid call, from
:mod:`valid_calls`; then one argument after the other is replaced by values that its annotation
rules out.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from valid_calls import RECORDS, World

import probml_tp

INTERNAL = {
    "batching", "checks", "cli", "contracts", "convergence", "copying", "digest", "empirical",
    "environment", "experiments", "fit_info", "guide", "harness", "identity", "kit",
    "last_layer", "layout", "model", "net_call", "plots", "posterior", "predictions",
    "quiet_arviz", "records", "storage", "streams",
}  # fmt: skip
"""Parts that the others share, the command line, and what draws or prints results."""

ROOMS = {"gap.choosing", "predictions.links", "predictions.predictive"}
"""Modules further down whose names are for users."""

OF_USERS = {"BayesianModel.check_data", "BayesianModel.check_inputs", "BayesianModel.with_scales"}
"""Methods of modules that users call; the others are what the runners call, on checked values."""

NEGATIVE_TOO = {"loc", "degrees", "low", "high", "value", "error", "threshold", "mean", "y"}
"""Numbers that may be below 0."""
POSITIVE = {"lr", "temperature", "scale", "precision", "weight_decay", "init_scale", "min_scale"}
"""Numbers that may not be 0."""

ZERO = {"seed", "epochs", "burn_in", "cloning_epochs", "warmup", "patience"}
"""Integers that may be 0."""


@dataclass(frozen=True)
class Target:
    """A public callable with its valid arguments."""

    name: str
    function: Callable[..., Any]
    valid: dict[str, Any]
    signature: inspect.Signature


@dataclass(frozen=True)
class WrongCall:
    """A call with one argument replaced."""

    target: Target
    argument: str
    value: Any

    def __str__(self) -> str:
        return f"{self.target.name}({self.argument}={_short(self.value)})"

    def outcome(self) -> str:
        """``refused``, or what happened instead."""
        arguments = self.target.valid | {self.argument: self.value}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.target.function(**arguments)
        except ValueError as error:
            return _judge(error, self.argument, self.value)
        except Exception as error:
            return f"traceback: {type(error).__name__}: {str(error)[:150]}"
        return "silent: taken without a word"


PARTS = {
    "infer": ("a callable",),
    "scale": ("noise_scale",),
    "labels": ("y",),
    "y_train": ("y",),
    "y_validation": ("y",),
    "data": ("x", "y"),
    "validation": ("x", "y"),
    "table": ("scores",),
}
"""What messages about an argument may name instead: a part of it."""


def _judge(error: ValueError, argument: str, value: object) -> str:
    message = str(error)
    names = {argument, argument.replace("_", " "), argument.rstrip("s"), *PARTS.get(argument, ())}
    said = any(re.search(rf"\b{re.escape(n)}", message) for n in names) or f"{value!s}" in message
    if "\n" in message or len(message) < 20:
        return f"message: not one line: {message[:200]!r}"
    return "refused" if said else f"message: neither {argument} nor its value: {message[:200]}"


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class with its name."""
    seen = set()
    modules = {module.name for module in pkgutil.iter_modules(probml_tp.__path__)} - INTERNAL
    for module in sorted(modules | ROOMS):
        loaded = importlib.import_module(f"probml_tp.{module}")
        for name in loaded.__all__:
            item = getattr(loaded, name)
            own = str(getattr(item, "__module__", "")).startswith("probml_tp")
            if callable(item) and own and id(item) not in seen:
                seen.add(id(item))
                yield name, item
    for name in probml_tp.__all__:
        if id(item := getattr(probml_tp, name)) not in seen:
            seen.add(id(item))
            yield name, item


def callables() -> Iterator[tuple[str, Any]]:
    """Every public function, constructor and method with its name."""
    for name, item in public():
        if not inspect.isclass(item):
            yield name, item
            continue
        if name not in RECORDS and not issubclass(item, Exception | Warning):
            yield name, item
        for attribute in sorted(dir(item)):
            method = inspect.getattr_static(item, attribute)
            own = str(getattr(getattr(item, attribute, None), "__module__", ""))
            fields = getattr(item, "__dataclass_fields__", {})
            if attribute.startswith("_") or attribute in fields or not own.startswith("probml_tp"):
                continue
            inner = issubclass(item, nn.Module) and f"{name}.{attribute}" not in OF_USERS
            if isinstance(method, classmethod) or (inspect.isfunction(method) and not inner):
                yield f"{name}.{attribute}", method


def targets(world: World) -> Iterator[Target]:
    """Every public callable that takes arguments, with its valid ones.

    Raises:
        LookupError: no valid value of an argument is known.
    """
    for name, item in callables():
        for function in _bound(name, item, world):
            signature = inspect.signature(function)
            if signature.parameters:
                yield Target(name, function, world.arguments(name, signature), signature)


def _bound(name: str, item: Any, world: World) -> Iterator[Callable[..., Any]]:
    """A function itself; a method of its class, or of each instance."""
    owner, _, attribute = name.partition(".")
    if not attribute:
        yield item
    elif isinstance(item, classmethod):
        yield getattr(dict(public())[owner], attribute)
    elif len(inspect.signature(item).parameters) > 1:
        yield from (getattr(receiver, attribute) for receiver in world.receivers(owner))


def wrong_calls(target: Target) -> Iterator[WrongCall]:
    """The wrong calls of a callable: each argument in turn, each value that its type rules out."""
    for name, parameter in target.signature.parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        for value in wrong_values(name, str(parameter.annotation), target.valid.get(name)):
            if (target.name, name, _short(value)) not in FINE and (
                "*",
                name,
                _short(value),
            ) not in FINE:
                yield WrongCall(target, name, value)


def wrong_values(name: str, annotation: str, valid: object) -> list[Any]:
    """Values that an argument must refuse: no part of its type allows them."""
    parts = split(annotation)
    values: list[Any] = [] if "None" in parts or annotation in ("Any", "object | None") else [None]
    for part in parts:
        values += _wrong_of(name, part, valid)
    if "object" not in parts:
        values.append(_Stranger())
    return [value for value in values if not any(_allows(part, value, name) for part in parts)]


def split(annotation: str) -> list[str]:
    """The parts of a union."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(annotation):
        depth += (letter in "[(") - (letter in "])")
        if letter == "|" and depth == 0:
            parts.append(annotation[start:place].strip())
            start = place + 1
    return [*parts, annotation[start:].strip()]


class _Stranger:
    """An object of no use to anyone."""

    def __repr__(self) -> str:
        return "a stranger"


def _wrong_of(name: str, part: str, valid: object) -> list[Any]:
    """Wrong values of one part of a union."""
    if part == "None":
        return []
    if part == "int":
        zero = [] if name in ZERO else [0]
        return [-5, *zero, 2.5, "a", True, math.nan, 10**30]
    if part == "float":
        negative = [] if name in NEGATIVE_TOO else [-1.0]
        return [math.nan, math.inf, "a", True, *negative, *([0.0] if name in POSITIVE else [])]
    if part == "bool":
        return ["no", 2, 1]
    if part == "object" or part == "Tensor":
        shorter = [valid[:-1]] if isinstance(valid, Tensor) and name in PAIRED else []
        return _wrong_arrays(valid) + shorter
    if part.startswith("tuple[object, object]"):
        return _wrong_pairs(valid)
    if part.startswith("Path"):
        return ["", "/dev/null/inside", 3]
    return [3, "unknown word", math.nan]


def _wrong_arrays(valid: object) -> list[Any]:
    """NaN in one entry, nothing, too many dimensions, text, objects, complex numbers."""
    values: list[Any] = ["a", _Stranger(), [[1.0], [1.0, 2.0]], ["a", "b"]]
    if isinstance(valid, Tensor) and valid.ndim:
        spoilt = valid.double().clone()
        spoilt.view(-1)[0] = math.nan
        values += [
            spoilt,
            valid[:0],
            valid.to(torch.complex64),
            valid.reshape(1, 1, 1, *valid.shape),
        ]
    return values


def _wrong_pairs(valid: Any) -> list[Any]:
    x, y = valid or (torch.ones(3, 1), torch.ones(3))
    return [
        3,
        "ab",
        (x,),
        (x, y, y),
        (x, y[:-1]),
        (x[:0], y[:0]),
        (math.nan * x, y),
        (x, "a"),
        (None, y),
    ]


NO_PATHS = ("", "/dev/null/inside")


def _allows(part: str, value: object, name: str) -> bool:
    """Whether another part of a union takes a value after all."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if part == "float":
        wanted_sign = name in NEGATIVE_TOO or (number and value > 0)
        return number and math.isfinite(value) and wanted_sign and abs(value) < 10**20
    if part in ("str", "Path") or part.startswith("str"):
        return isinstance(value, str) and name not in CHOICES and value not in NO_PATHS
    return False


PAIRED = {"y", "labels", "correct", "positive", "y_train", "y_validation", "b", "reference"}
"""Arrays with an entry for each of another's."""

CHOICES = {
    "reference", "corruption", "name", "split", "quantity", "metric", "of", "space", "a", "b",
    "member", "optimizer", "guide", "sites",
}  # fmt: skip
"""Texts that are names of something."""

FINE = {
    ("Requirement", "metric", "'unknown word'"): "a report may have any column",
    ("LowRankNormal", "rank", "0"): "a diagonal normal",
    ("RegressionPredictive.cdf", "y", "(1, 1, 1, 12) torch.float64"): "targets are broadcast",
    ("BayesianModel", "name", "'unknown word'"): "a name of one's own",
}
"""``(callable or *, argument, value)``: why it is right to take it."""


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 40 else text[:37] + "..."
