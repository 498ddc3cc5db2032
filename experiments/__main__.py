"""Write ``options.json``, which help texts are made from: run after changing an option."""

from __future__ import annotations

from probml_tp.experiments import EXPERIMENTS, OPTIONS
from probml_tp.harness.option_table import options_as_json

if __name__ == "__main__":
    found = {name: experiment.config.options() for name, experiment in EXPERIMENTS.items()}
    OPTIONS.write_text(options_as_json(found), encoding="utf-8")
