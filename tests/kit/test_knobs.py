"""One name an option over all experiments: declared once, with one rule."""

from __future__ import annotations

import pytest

from probml_tp.experiments import EXPERIMENTS
from probml_tp.gap.problem import GapOptions
from probml_tp.kit.knobs import KNOBS, knob

CONFIGS = {name: EXPERIMENTS[name].config for name in EXPERIMENTS} | {"which": GapOptions}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_option_under_a_knobs_name_is_that_knob(name):
    for option in CONFIGS[name].options():
        known = KNOBS.get(option.name)
        assert known is None or option.help.startswith(known.help), option.name


def test_what_two_studies_have_is_a_knob_or_of_a_class_that_both_share():
    homes: dict[str, set[type]] = {}
    for config in CONFIGS.values():
        for option in config.options():
            home = next(c for c in reversed(config.__mro__) if option.name in vars(c))
            homes.setdefault(option.name, set()).add(home)
    shared = {name for name, found in homes.items() if len(found) > 1}
    parts = {name for name in shared if name.partition("_")[2] in KNOBS}  # such as net_guides
    assert shared - set(KNOBS) - parts == set()


def test_an_unknown_knob_is_refused():
    with pytest.raises(KeyError):
        knob("chainz", 4)
