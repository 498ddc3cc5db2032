"""Typed options of an experiment: a frozen dataclass that validates itself and knows its presets.

An experiment declares its options once, as the fields of a subclass of
:class:`ExperimentConfig`. Defaults, the quick and the full preset, the help text and the rules
that values must meet stand beside each field; the command line is derived from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["SIZES", "ExperimentConfig", "Option", "Options", "Size", "option"]

Size = Literal["quick", "default", "full"]
SIZES: tuple[Size, ...] = get_args(Size)

T = TypeVar("T")

LARGEST_INT = 10**12
LARGEST_FLOAT, SMALLEST_FLOAT = 1e12, 1e-12
"""Beyond these no array fits into memory, and squares are no numbers of single precision."""

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
}


class Same(Enum):
    """Marks a preset that keeps the default (None is a value that an option may have)."""

    AS_DEFAULT = "as default"


@dataclass(frozen=True)
class _Rules:
    help: str
    quick: object
    full: object
    choices: tuple[str, ...] | None
    minimum: float | None
    maximum: float | None


def option(
    default: T,
    help: str,
    *,
    quick: T | Same = Same.AS_DEFAULT,
    full: T | Same = Same.AS_DEFAULT,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> T:
    """Declare one option of an experiment, as a field of its config dataclass.

    Args:
        default: the value of an ordinary run.
        help: one sentence on what it does, with its unit; shown by ``--help``.
        quick: the value under ``--quick``; the default when left out.
        full: the value under ``--full``; the default when left out.
        choices: the texts allowed; for a tuple, the texts allowed as its items.
        minimum: the smallest number allowed (inclusive).
        maximum: the largest number allowed (inclusive).

    Returns:
        A dataclass field, typed as its default so that type checkers see an ordinary default.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Config(ExperimentConfig):
        ...     n: int = option(30, "Number of data points.", quick=10, minimum=1)
        >>> Config.preset("quick").n
        10
    """
    allowed = None if choices is None else tuple(choices)
    rules = _Rules(help, quick, full, allowed, minimum, maximum)
    return field(default=default, metadata={"option": rules})


@dataclass(frozen=True)
class Option:
    """What is known about one option: its type, its value in each preset, and its rules.

    Attributes:
        name: the field's name.
        kind: bool, int, float or str; for a tuple, the type of its items.
        optional: whether None is allowed.
        repeated: whether it is a tuple of ``kind``.
        help: one sentence.
        values: the value in each preset.
        choices: the texts allowed, or None for any.
        minimum: the smallest number allowed, or None.
        maximum: the largest number allowed, or None.
    """

    name: str
    kind: type
    optional: bool
    repeated: bool
    help: str
    values: Mapping[Size, Any]
    choices: tuple[str, ...] | None
    minimum: float | None
    maximum: float | None

    def check(self, value: object) -> object:
        """Return ``value`` in canonical form (a tuple for a list, a float for an int).

        Args:
            value: what was asked for.

        Returns:
            The value to store.

        Raises:
            ValueError: it has another type, or breaks the option's rules.
        """
        if value is None and self.optional:
            return None
        if not self.repeated:
            return self._check_item(value)
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise self._error("a sequence of at least one item", value, "Give one or more.")
        items = tuple(self._check_item(item) for item in value)
        if self.choices is not None and len(set(items)) < len(items):
            raise self._error("free of repetitions", value, "Name each choice once.")
        return items

    def _check_item(self, value: object) -> object:
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.kind or (isinstance(value, float) and not math.isfinite(value)):
            raise self._error(_KINDS[self.kind], value, f"The default is {self.values['default']}.")
        if self.choices is not None and value not in self.choices:
            raise self._error("one of the known choices", value, self._choices_remedy())
        if isinstance(value, str) and not value.strip():
            raise self._error("a text that is not empty", value, "Leave it out, or name one.")
        if isinstance(value, int | float):
            self._check_range(value)
        return value

    def _check_range(self, value: float) -> None:
        if abs(value) > (LARGEST_FLOAT if self.kind is float else LARGEST_INT):
            raise self._error("of a size of at most 1e+12", value, "Give a smaller value.")
        if self.kind is float and 0 < abs(value) < SMALLEST_FLOAT:
            raise self._error("zero, or of a size of at least 1e-12", value, "Give a larger value.")
        if self.minimum is not None and value < self.minimum:
            raise self._error(f"at least {self.minimum:g}", value, "Give a larger value.")
        if self.maximum is not None and value > self.maximum:
            raise self._error(f"at most {self.maximum:g}", value, "Give a smaller value.")

    def _choices_remedy(self) -> str:
        return f"Choose from {', '.join(self.choices or ())}."

    def _error(self, rule: str, value: object, remedy: str) -> ValueError:
        return ValueError(f"Option {self.name} must be {rule}; got {value!r}. {remedy}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check themselves; subclass it, frozen and keyword-only.

    Every field is declared with :func:`option` and is a bool, int, float or str, one of these or
    None, or a tuple of int, float or str. Values are checked whenever an object is made.
    """

    def __post_init__(self) -> None:
        """Check every value and store it in canonical form.

        Raises:
            ValueError: a value has the wrong type or breaks a rule of its option.
        """
        for known in self.options():
            checked = known.check(getattr(self, known.name))
            object.__setattr__(self, known.name, checked)

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Describe the options, in the order of their declaration.

        Returns:
            One record an option.

        Raises:
            TypeError: a field was not made with :func:`option`, or has a type that is not allowed.
        """
        hints = get_type_hints(cls)
        return tuple(
            _describe(cls, f.name, hints[f.name], f.default, f.metadata) for f in fields(cls)
        )

    @classmethod
    def preset(cls, size: Size = "default", **overrides: object) -> Self:
        """Make the config of one size, with some options replaced.

        Args:
            size: "quick" (a smoke test), "default" or "full" (the published size).
            overrides: options that take another value than the preset's.

        Returns:
            The config.

        Raises:
            ValueError: the size or an option is unknown, or a value breaks a rule.

        Example:
            >>> ExperimentConfig.preset("quick", sed=1)
            Traceback (most recent call last):
            ...
            ValueError: Options must be known to ExperimentConfig; got sed. Known are: seed.
        """
        if size not in SIZES:
            raise ValueError(f"A size must be one of {', '.join(SIZES)}; got {size!r}.")
        values = {known.name: known.values[size] for known in cls.options()}
        if unknown := sorted(set(overrides) - set(values)):
            raise ValueError(
                f"Options must be known to {cls.__name__}; got {', '.join(unknown)}. "
                f"Known are: {', '.join(values)}."
            )
        return cls(**(values | overrides))

    def to_dict(self) -> dict[str, Any]:
        """Give the values as JSON knows them.

        Returns:
            Option name to value, tuples turned into lists.

        Example:
            >>> ExperimentConfig(seed=3).to_dict()
            {'seed': 3}
        """
        values = {known.name: getattr(self, known.name) for known in self.options()}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def describe(self) -> str:
        """Say which preset this is nearest to, and what differs from it.

        Returns:
            For example "quick preset with n = 30".

        Example:
            >>> ExperimentConfig(seed=3).describe()
            'default preset with seed = 3'
        """
        candidates: tuple[Size, ...] = ("default", "quick", "full")
        nearest = min(candidates, key=lambda size: len(self._changes(size)))
        changes = [f"{name} = {_plain(value)}" for name, value in self._changes(nearest).items()]
        return f"{nearest} preset" + (f" with {', '.join(changes)}" if changes else "")

    def _changes(self, size: Size) -> dict[str, object]:
        reference = self.preset(size)
        values = {known.name: getattr(self, known.name) for known in self.options()}
        return {n: value for n, value in values.items() if value != getattr(reference, n)}


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Options):
    """The options that every experiment has; subclass it, frozen and keyword-only.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Config(ExperimentConfig):
        ...     guides: tuple[str, ...] = option(
        ...         ("map", "laplace"), "Guides.", choices=("map", "laplace", "exact")
        ...     )
        ...     epochs: int = option(20, "Passes over the data.", quick=2, minimum=1)
        >>> Config.preset("quick", guides=["exact"])
        Config(seed=0, guides=('exact',), epochs=2)
        >>> Config(epochs=0)
        Traceback (most recent call last):
        ...
        ValueError: Option epochs must be at least 1; got 0. Give a larger value.
    """

    seed: int = option(0, "Seed of everything random.", minimum=0, maximum=2**32 - 1)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _describe(
    cls: type, name: str, hint: Any, default: object, metadata: Mapping[str, Any]
) -> Option:
    rules = metadata.get("option")
    kind, optional, repeated = _parse_hint(hint)
    if not isinstance(rules, _Rules) or kind not in _KINDS or (repeated and kind is bool):
        raise TypeError(
            f"{cls.__name__}.{name} must be declared with option() as a bool, int, float or str, "
            f"one of these or None, or a tuple of int, float or str; got {hint}."
        )
    quick = default if rules.quick is Same.AS_DEFAULT else rules.quick
    full = default if rules.full is Same.AS_DEFAULT else rules.full
    return Option(
        name=name,
        kind=kind,
        optional=optional,
        repeated=repeated,
        help=rules.help,
        values={"quick": quick, "default": default, "full": full},
        choices=rules.choices,
        minimum=rules.minimum,
        maximum=rules.maximum,
    )


def _parse_hint(hint: Any) -> tuple[Any, bool, bool]:
    if get_origin(hint) in (UnionType, Union):
        rest = [part for part in get_args(hint) if part is not NoneType]
        kind, _, repeated = _parse_hint(rest[0]) if len(rest) == 1 else (None, False, False)
        return kind, True, repeated
    if get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,):
        return get_args(hint)[0], False, True
    return hint, False, False
