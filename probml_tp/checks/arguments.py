"""Arguments of public functions, checked against what their signatures say."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from probml_tp.checks.values import (
    finite,
    is_integer,
    is_number,
    plain,
    positive,
    positive_integer,
    shown,
    strictly_between_0_and_1,
    valid_seed,
)

__all__ = ["Rule", "checked", "real_tensor"]

T = TypeVar("T")
Rule = Callable[[str, Any], object]
"""``(name, value)``: raises a ValueError where the value is not allowed."""

SAME_EVERYWHERE: dict[str, Rule] = {
    "batch_size": positive_integer,
    "init_scale": positive,
    "level": strictly_between_0_and_1,
    "lr": positive,
    "num_samples": positive_integer,
    "seed": lambda _, value: valid_seed(value),
}
"""Rules of arguments that mean the same in every function."""


def checked(**rules: Rule | None) -> Callable[[T], T]:
    """Let a function, or a class's constructor, refuse arguments that its signature does not allow.

    Types come from the annotations: integers (``True`` is none), finite numbers, ``True`` or
    ``False`` (1 is neither), the words of a ``Literal``, paths, callables, collections with what is
    in them, classes; ``None`` only where it stands there. ``object`` and ``Any`` say nothing:
    arrays are checked where they are read.

    Args:
        rules: the narrower rule of an argument, such as ``draws=positive_integer``. Some names mean
            the same everywhere and have one already: ``seed``, ``num_samples``, ``level``, ...
            ``None`` leaves an argument to the function itself.

    Returns:
        A decorator. The function gets its arguments as they came.

    Example:
        >>> @checked(draws=positive_integer)
        ... def mean(draws: int, keep: bool = False) -> None: ...
        >>> mean(0)
        Traceback (most recent call last):
        ValueError: draws must be an integer of at least 1; got 0. Pass 1 or more.
        >>> mean(3, keep="no")
        Traceback (most recent call last):
        ValueError: keep must be True or False; got 'no'. Leave it out for False.
    """

    def decorate(target: T) -> T:
        if isinstance(target, type):
            target.__init__ = _guarded(target.__init__, rules)  # type: ignore[misc]
            return target
        return _guarded(target, rules)  # type: ignore[no-any-return]

    return decorate


def real_tensor(ndim: int | None = None, *, infinite: bool = False) -> Rule:
    """The rule of a tensor of real numbers, at least one and none of them NaN.

    Args:
        ndim: its number of dimensions, if it matters.
        infinite: whether entries may be infinite.

    Example:
        >>> real_tensor(2)("probs", Tensor([0.5, 0.5]))
        Traceback (most recent call last):
        ValueError: probs must be 2-dimensional, real and not empty; got shape (2,), torch.float32.
    """
    dimensions = "" if ndim is None else f"{ndim}-dimensional, "

    def rule(name: str, value: object) -> None:
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor; got {shown(value)}. Pass a torch.Tensor.")
        if value.is_complex() or not value.numel() or ndim not in (None, value.ndim):
            raise ValueError(
                f"{name} must be {dimensions}real and not empty; got shape "
                f"{tuple(value.shape)}, {value.dtype}."
            )
        finite(name, value.nan_to_num(nan=math.nan, posinf=0.0, neginf=0.0) if infinite else value)

    return rule


def _guarded(function: Any, own: Mapping[str, Rule | None]) -> Any:
    signature = inspect.signature(function)
    if unknown := set(own) - set(signature.parameters):
        raise TypeError(f"rules for {', '.join(unknown)}, which {function.__qualname__} lacks")

    @functools.cache
    def rules() -> dict[str, Rule]:
        found = {
            name: _rule_of(parameter, function, own)
            for name, parameter in signature.parameters.items()
        }
        return {name: rule for name, rule in found.items() if rule is not None}

    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # Python's own message for it comes from the call
        for name, rule in rules().items():
            if name in given:
                rule(name, given[name])
        return function(*args, **kwargs)

    home = inspect.unwrap(function).__globals__  # where doctest looks for a function's example
    moved = FunctionType(guarded.__code__, home, closure=guarded.__closure__)
    return functools.wraps(function)(moved)


def _rule_of(
    parameter: inspect.Parameter, function: Any, own: Mapping[str, Rule | None]
) -> Rule | None:
    """The rule of a parameter: its own, that of its name, or that of its type."""
    if own.get(parameter.name, checked) is None:
        return None
    hint = annotated_type(parameter.annotation, function)
    if own_rule := getattr(hint, "argument_rule", None):
        return cast("Rule", own_rule)
    narrow = own.get(parameter.name, SAME_EVERYWHERE.get(parameter.name))
    if narrow is not None:
        if NoneType in get_args(hint):
            return lambda name, value: None if value is None else narrow(name, value)
        return narrow
    wanted = allowed(hint)
    if wanted is None:
        return None
    text, accepts = wanted
    default = parameter.default
    remedy = (
        f"See help({function.__qualname__.removesuffix('.__init__')})."
        if default is parameter.empty or "object at" in repr(default)
        else f"Leave it out for {shown(default)}."
    )

    def rule(name: str, value: object) -> None:
        if not accepts(value):
            raise ValueError(f"{name} must be {text}; got {shown(value)}. {remedy}")

    return rule


def annotated_type(annotation: object, function: Any) -> Any:
    """The type that an annotation names; ``object`` where only type checkers know it."""
    home = inspect.unwrap(function).__globals__
    while isinstance(annotation, str):  # an alias may be one itself
        try:
            annotation = eval(annotation, home, _Names(home))
        except (NameError, AttributeError, TypeError):
            return object
    return object if annotation is inspect.Parameter.empty else annotation


class _Names(dict[str, Any]):
    """A module's names, then the package's: what a module imports for type checkers only."""

    def __missing__(self, name: str) -> Any:
        facade = sys.modules["probml_tp"]
        if name in facade.__all__:
            return getattr(facade, name)
        raise KeyError(name)


class Allowed(NamedTuple):
    """What a type allows, in words and as a test."""

    text: str
    accepts: Callable[[Any], bool]


PLAIN: dict[Any, Allowed] = {
    bool: Allowed("True or False", lambda value: isinstance(value, bool | np.bool_)),
    int: Allowed("an integer", lambda value: is_integer(plain(value))),
    float: Allowed("a finite number", lambda value: is_number(plain(value))),
    str: Allowed("text", lambda value: isinstance(value, str)),
    NoneType: Allowed("None", lambda value: value is None),
}


def allowed(hint: Any) -> Allowed | None:
    """What a type allows; None where that is everything."""
    origin: Any = get_origin(hint) or hint
    parts = get_args(hint)
    if origin in (Union, UnionType):
        return _any_of([allowed(part) for part in parts])
    if origin is Literal:
        words = ", ".join(map(str, parts))
        return Allowed(f"one of {words}", lambda v: isinstance(v, str) and v in parts)
    if origin in PLAIN:
        return PLAIN[origin]
    if (
        origin in (Any, object)
        or not isinstance(origin, type)
        or getattr(origin, "_is_protocol", False)
    ):
        return None
    if issubclass(origin, os.PathLike):
        return Allowed("a path", lambda v: isinstance(v, os.PathLike | str) and str(v) != "")
    if origin is collections.abc.Callable:
        return Allowed("a callable", callable)
    return _collection(origin, parts) if parts else _instance_of(origin)


def _any_of(parts: list[Allowed | None]) -> Allowed | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    texts = [part.text for part in known]
    if {"text", "a path"} <= set(texts):  # a path may be text, but not any text is a path
        known = [part for part in known if part.text != "text"]
    return Allowed(
        " or ".join(part.text for part in known), lambda v: any(part.accepts(v) for part in known)
    )


def _instance_of(kind: type) -> Allowed:
    if issubclass(kind, Distribution):  # Pyro's have no class of their own in common
        kind = Distribution
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    return Allowed(f"{article} {kind.__name__}", lambda value: isinstance(value, kind))


def _collection(kind: type, parts: tuple[Any, ...]) -> Allowed | None:
    """A mapping, a tuple of a fixed length, or a row of values of one type."""
    if issubclass(kind, Mapping):
        keys, values = (allowed(part) or Allowed("anything", lambda _: True) for part in parts)
        return Allowed(
            f"a mapping from {keys.text} to {values.text}",
            lambda v: (
                isinstance(v, Mapping)
                and all(keys.accepts(key) and values.accepts(value) for key, value in v.items())
            ),
        )
    if kind is tuple and parts[-1] is not Ellipsis:
        each = [allowed(part) or Allowed("anything", lambda _: True) for part in parts]
        return Allowed(
            "a pair of inputs and targets"
            if parts == (object, object)
            else f"a tuple of {len(each)}",
            lambda v: (
                isinstance(v, tuple | list)
                and len(v) == len(each)
                and all(part.accepts(item) for part, item in zip(each, v, strict=True))
            ),
        )
    if issubclass(kind, Iterable) and kind.__module__ in ("builtins", "collections.abc"):
        item = allowed(parts[0]) or Allowed("anything", lambda _: True)
        return Allowed(
            f"a sequence, each {item.text}",
            lambda v: (
                isinstance(v, Iterable)
                and not isinstance(v, str | bytes | Mapping)
                and (not isinstance(v, Collection) or all(map(item.accepts, v)))
            ),
        )
    return _instance_of(kind)
