"""Whether what was read from JSON has the form that it was written with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

__all__ = ["conform", "read_json"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        ValueError: it cannot be read, is no JSON, or holds NaN or infinity.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def conform(value: Any, form: Any, place: str = "it") -> Any:
    """Check a value against a form, and give it back with its lists as the form has them.

    Args:
        value: as JSON knows it.
        form: a type (``bool``, ``int``, ``float`` for a finite number, ``str``, ``None``, a union
            of these), ``dict[str, form]``, ``list[form]``, ``tuple`` of two forms or of a form and
            an ellipsis; a mapping of names to forms, for an object with these names; or a list of
            one such mapping.
        place: what it is called in the message.

    Returns:
        The value.

    Raises:
        ValueError: it has another form.

    Example:
        >>> conform({"a": [1, 2.5]}, {"a": tuple[float, float]})
        {'a': (1, 2.5)}
        >>> conform({"a": [1, "b"]}, {"a": list[float]})
        Traceback (most recent call last):
        ...
        ValueError: its a[1] must be a finite number; got 'b'
    """
    if isinstance(form, Mapping):
        return _object(value, form, place)
    if isinstance(form, list):
        return [conform(item, form[0], at) for item, at in _items(value, place)]
    parts = get_args(form)
    if get_origin(form) in (UnionType, Union):
        kind = next((part for part in parts if _is(value, part)), None)
        if kind is None:
            raise _error("of a type that runs write", value, place)
        return None if kind is NoneType else conform(value, kind, place)
    if get_origin(form) is dict:
        if not isinstance(value, dict):
            raise _error("an object", value, place)
        return {_text(k): conform(v, parts[1], _at(place, k)) for k, v in value.items()}
    if get_origin(form) is list:
        return [conform(item, parts[0], at) for item, at in _items(value, place)]
    if get_origin(form) is tuple:
        items = _items(value, place)
        if parts[1:] != (...,) and len(items) != len(parts):
            raise _error(f"a list of {len(parts)}", value, place)
        return tuple(conform(item, parts[0], at) for item, at in items)
    if not _is(value, form):
        raise _error(_WORDS[form], value, place)
    return _text(value) if form is str else value


def _is(value: object, kind: Any) -> bool:
    if kind is NoneType:
        return value is None
    if get_origin(kind) is list:
        return isinstance(value, list)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float and isinstance(value, int | float):
        try:
            return math.isfinite(float(value))
        except OverflowError:
            return False
    return isinstance(value, kind)


def _object(value: Any, form: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error("an object", value, place)
    if missing := [name for name in form if name not in value]:
        raise ValueError(f"{place} lacks {', '.join(missing)}")
    if more := [name for name in value if name not in form]:
        raise ValueError(f"{place} has {', '.join(map(repr, more))}, which no run writes")
    return {name: conform(value[name], form[name], _at(place, name)) for name in form}


def _items(value: Any, place: str) -> list[tuple[Any, str]]:
    if not isinstance(value, list):
        raise _error("a list", value, place)
    return [(item, f"{place}[{index}]") for index, item in enumerate(value)]


def _at(place: str, name: str) -> str:
    return f"its {name}" if place == "it" else f"{place}.{name}"


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{value!a} is no text: it has half of a character") from None
    return value


def _error(rule: str, value: object, place: str) -> ValueError:
    shown = repr(value)
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    return ValueError(f"{place} must be {rule}; got {shown}")


def _refuse(word: str) -> None:
    raise ValueError(f"it holds {word}, which is no number of JSON")
