"""Command-line options derived from the options of an experiment's config."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import click

from probml_tp.harness.config import SIZES, Option

__all__ = ["config_option", "given_values", "parsed"]

NONE = "none"

_TYPES: dict[type, click.ParamType[Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    bool: click.BOOL,
}


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The text of an option turned into its type; the rules are the config's to check."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.name = option.kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._option.optional and value == NONE:
            return value
        kind = _TYPES[self._option.kind]
        if self._option.repeated:
            return [kind.convert(item.strip(), param, ctx) for item in value.split(",")]
        return kind.convert(value, param, ctx)


def config_option(option: Option) -> click.Option:
    """Make the command-line option of one option of a config.

    A tuple is given as ``--name a,b`` or ``--name a --name b``, None as the word "none", a bool
    as ``--name`` or ``--no-name``. An option that is not given is None (a tuple: empty), so that
    the preset decides.

    Args:
        option: what is known about it.

    Returns:
        The click option; its help shows the presets, the choices and the range.
    """
    flag = option.name.replace("_", "-")
    if option.kind is bool and not option.optional:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=_help(option))
    return click.Option(
        [f"--{flag}"],
        type=_Value(option),
        metavar=_metavar(option),
        multiple=option.repeated,
        callback=_join if option.repeated else None,
        help=_help(option),
    )


def parsed(option: Option, text: str) -> object:
    """The value of an option that a text stands for, as on the command line.

    Args:
        option: what is known about it.
        text: for example "3", "a,b" or "none".

    Raises:
        BadParameter: it stands for no value of the option's type.

    Example:
        >>> from probml_tp.harness.config import ExperimentConfig
        >>> parsed(ExperimentConfig.options()[0], "3")
        3
    """
    value = _Value(option).convert(text, None, None)
    return None if value == NONE else value


def given_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that were given, and turn the word "none" into None.

    Args:
        parameters: option to value, as click hands them over.

    Returns:
        The overrides of a preset.

    Example:
        >>> given_values({"n": 3, "rate": None, "guides": (), "limit": "none"})
        {'n': 3, 'limit': None}
    """
    present = {name: value for name, value in parameters.items() if value not in (None, ())}
    return {name: None if value == NONE else value for name, value in present.items()}


def _join(ctx: click.Context, parameter: click.Parameter, values: Any) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(values))


def _metavar(option: Option) -> str:
    names = list(option.choices) if option.choices else [option.kind.__name__.upper()]
    names += [NONE] if option.optional else []
    text = "|".join(names)
    text = f"[{text}]" if len(names) > 1 else text
    return f"{text},..." if option.repeated else text


def _help(option: Option) -> str:
    shown = {size: _show(option.values[size]) for size in SIZES}
    facts = [f"default: {shown['default']}"]
    facts += [f"{s}: {shown[s]}" for s in ("quick", "full") if shown[s] != shown["default"]]
    facts += [f"at least {option.minimum:g}"] if option.minimum is not None else []
    facts += [f"at most {option.maximum:g}"] if option.maximum is not None else []
    return f"{option.help}  [{'; '.join(facts)}]"


def _show(value: object) -> str:
    if value is None:
        return NONE
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
