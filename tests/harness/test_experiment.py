"""The contract of an experiment: options, presets, the registry, the timing of stages."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass

import demo_experiment as demo
import pytest

from probml_tp.experiments import EXPERIMENTS, OPTIONS
from probml_tp.harness.experiment import (
    Entry,
    Experiment,
    ExperimentConfig,
    NullProgress,
    Registry,
    option,
    run_experiment,
)
from probml_tp.harness.option_table import options_as_json


@pytest.mark.parametrize(("size", "n", "limit"), [("quick", 10, 5), ("default", 30, None)])
def test_preset_sets_every_option_and_overrides_win(size, n, limit):
    config = demo.Config.preset(size)
    assert (config.n, config.limit, config.seed) == (n, limit, 0)
    assert demo.Config.preset(size, n=7).n == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 1}, "n must be at least 2; got 1"),
        ({"n": 2.0}, "n must be a whole number; got 2.0"),
        ({"n": True}, "n must be a whole number; got True"),
        ({"n": None}, "n must be a whole number; got None"),
        ({"scale": float("nan")}, "scale must be a finite number; got nan"),
        ({"scale": -1}, "scale must be at least 0; got -1.0"),
        (
            {"guides": ("map", "lapalce")},
            "one of the known choices; got 'lapalce'. Choose from map",
        ),
        ({"guides": ("map", "map")}, "free of repetitions"),
        ({"guides": ()}, "at least one item"),
        ({"guides": "map"}, "a sequence"),
        ({"noisy": 1}, "noisy must be true or false; got 1"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**32}, "seed must be at most"),
    ],
)
def test_values_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        demo.Config(**wrong)


def test_values_are_stored_in_canonical_form():
    config = demo.Config(scale=2, guides=["map"])
    assert (config.scale, type(config.scale), config.guides) == (2.0, float, ("map",))
    with pytest.raises(FrozenInstanceError):
        config.n = 3


def test_unknown_options_and_sizes_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="got epochs, m. Known are: seed, n, scale"):
        demo.Config.preset("quick", m=1, epochs=2)
    with pytest.raises(ValueError, match="quick, default, full; got 'huge'"):
        demo.Config.preset("huge")


def test_config_survives_json():
    config = demo.Config.preset("full", seed=3)
    assert demo.Config(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("size", "overrides", "text"),
    [
        ("default", {}, "default preset"),
        ("quick", {}, "quick preset"),
        ("full", {"seed": 1}, "full preset with seed = 1"),
        ("default", {"guides": ("nuts", "map")}, "default preset with guides = nuts map"),
    ],
)
def test_a_config_knows_its_preset(size, overrides, text):
    assert demo.Config.preset(size, **overrides).describe() == text


def test_options_describe_the_fields_in_order():
    options = {known.name: known for known in demo.Config.options()}
    assert list(options) == ["seed", "n", "scale", "guides", "limit", "noisy", "mode", "fallback"]
    assert options["n"].values == {"quick": 10, "default": 30, "full": 1000}
    assert (options["limit"].kind, options["limit"].optional) == (int, True)
    assert (options["guides"].kind, options["guides"].repeated) == (str, True)


def test_a_field_without_option_or_of_another_type_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Plain(ExperimentConfig):
        n: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Odd(ExperimentConfig):
        raw: bytes = option(b"", "Bytes.")

    for config in (Plain, Odd):
        with pytest.raises(TypeError, match=r"must be declared with option\(\)"):
            config()


def test_running_times_each_stage_once_and_keeps_its_own_timings():
    results = run_experiment(demo.EXPERIMENT, demo.Config())
    assert list(results.timings) == ["make data", "fit"]
    assert all(seconds >= 0 for seconds in results.timings.values())


def test_running_with_the_config_of_another_experiment_is_refused():
    with pytest.raises(ValueError, match="must be a Config; got a ConfigWithData"):
        run_experiment(demo.EXPERIMENT, demo.ConfigWithData(), progress=NullProgress())


def test_the_registry_imports_on_demand():
    registry = Registry({"demo": Entry("demo_experiment:EXPERIMENT", "Shows the contract.")})
    assert isinstance(registry["demo"], Experiment)
    assert "nothing" not in registry
    with pytest.raises(TypeError, match="must be an Experiment"):
        Registry({"x": Entry("demo_experiment:GUIDES", "")})["x"]


def test_listing_experiments_imports_nothing_heavy():
    script = (
        "import sys, probml_tp.cli, probml_tp.experiments as e; list(e.EXPERIMENTS);"
        "print(sorted({'torch', 'pyro', 'arviz', 'matplotlib', 'numpy', 'rich'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_options_on_file_are_those_of_the_experiments():
    own = {name: experiment.config.options() for name, experiment in EXPERIMENTS.items()}
    told = "run python -m probml_tp.experiments after changing an option"
    assert OPTIONS.read_text(encoding="utf-8") == options_as_json(own), told
    assert {name: EXPERIMENTS.options(name) for name in EXPERIMENTS} == own


def test_options_that_are_on_no_file_are_those_of_the_experiment(tmp_path):
    entries = {"demo": Entry("demo_experiment:EXPERIMENT", "Shows the contract.")}
    (tmp_path / "options.json").write_text("{}")
    for registry in (Registry(entries), Registry(entries, tmp_path / "options.json")):
        assert registry.options("demo") == demo.Config.options()


def test_looking_a_name_up_imports_nothing():
    registry = Registry({"demo": Entry("no_such_module:EXPERIMENT", "Shows the contract.")})
    assert "demo" in registry and "other" not in registry and None not in registry


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_registered_experiments_meet_the_contract(name):
    experiment = EXPERIMENTS[name]
    assert (experiment.name, experiment.summary) == (name, EXPERIMENTS.summary(name))
    assert all(known.help.endswith(".") for known in experiment.config.options())
