"""The command line: options from the dataclass, one-line errors, nothing half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import demo_experiment as demo
import pytest
from click.testing import CliRunner

from probml_tp import experiments
from probml_tp.cli import cli
from probml_tp.harness.experiment import Entry, Registry
from probml_tp.harness.results import read_results, saved_experiments

REGISTRY = Registry(
    {
        "demo": Entry("demo_experiment:EXPERIMENT", "Shows the contract."),
        "demo-data": Entry("demo_experiment:WITH_DATA", "Shows the contract, with data."),
    }
)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command with the demonstrations as its experiments, in an empty folder."""
    monkeypatch.setattr(experiments, "EXPERIMENTS", REGISTRY)
    monkeypatch.chdir(tmp_path)

    def invoke(*args: str):
        return CliRunner(catch_exceptions=False).invoke(cli, list(args), prog_name="probml-tp")

    return invoke


def error_of(result) -> str:
    """The one line of an error, and nothing else."""
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("probml-tp: error: ")
    return lines[0].removeprefix("probml-tp: error: ")


def config_of(folder, name="demo"):
    return read_results(folder / name).config


def test_list_shows_each_experiment_with_its_summary(command):
    lines = command("list").stdout.splitlines()
    assert lines == ["demo       Shows the contract.", "demo-data  Shows the contract, with data."]


def test_without_a_command_the_help_is_shown(command):
    result = command()
    assert result.exit_code == 0
    assert "run every experiment" in result.stdout


def test_version(command):
    assert command("--version").stdout.startswith("probml-tp, version 0.")


def test_run_without_names_runs_all_and_makes_the_report(command, tmp_path):
    result = command("run", "--quick", "--seed", "3")
    assert result.exit_code == 0
    folder = tmp_path / "results"
    assert saved_experiments(folder) == ["demo", "demo-data"]
    assert config_of(folder) == demo.Config.preset("quick", seed=3).to_dict()
    assert result.stdout.splitlines()[-1] == f"Report: {folder / 'report.html'}"
    assert sorted(os.listdir(folder)) == ["demo", "demo-data", "report.html"]


def test_results_are_printed_in_the_order_of_the_registry(command, tmp_path):
    command("run", "--no-progress")
    for name, seconds in {"demo": 1.0, "demo-data": 50.0}.items():  # the second one runs first
        path = tmp_path / "results" / name / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"timings": {"fit": seconds}}))
    result = command("run")
    assert result.stderr.partition("] ")[2].startswith("demo-data")
    assert 0 < result.stdout.index("A demonstration\n") < result.stdout.index("with data from")


def test_the_table_shows_guides_and_metrics(command):
    output = command("run", "demo", "--guides", "map,nuts").stdout
    assert "Mean (m)" in output
    assert "Standard deviation (m) ↓" in output
    assert "nuts" in output
    assert "- The mean of 30 draws is" in output


def test_chained_experiments_each_have_their_own_options(command, tmp_path):
    result = command(
        *("run", "--results", "out", "--seed", "5", "demo", "--n", "12", "--scale", "0.5"),
        *("--guides", "map", "--guides", "nuts,laplace", "--limit", "none", "--noisy"),
        *("demo-data", "--quick", "--seed", "6", "--data-root", "some/where"),
    )
    assert result.exit_code == 0
    assert config_of(tmp_path / "out") == {
        "seed": 5,
        "n": 12,
        "scale": 0.5,
        "guides": ["map", "nuts", "laplace"],
        "limit": None,
        "noisy": True,
        "mode": "fine",
        "fallback": False,
    }
    second = config_of(tmp_path / "out", "demo-data")
    assert (second["seed"], second["n"], second["data_root"]) == (6, 10, "some/where")


def test_the_preset_of_the_group_holds_until_an_experiment_names_its_own(command, tmp_path):
    assert command("run", "--full", "demo", "demo-data", "--quick").exit_code == 0
    sizes = [config_of(tmp_path / "results", name)["n"] for name in ("demo", "demo-data")]
    assert sizes == [1000, 10]


def test_shared_options_may_follow_the_name(command, tmp_path):
    assert command("run", "demo", "--results", "there", "--no-progress").stderr == ""
    assert saved_experiments(tmp_path / "there") == ["demo"]


def test_the_data_root_reaches_the_experiments_that_read_data(command, tmp_path):
    assert command("run", "--data-root", "d").exit_code == 0
    assert config_of(tmp_path / "results", "demo-data")["data_root"] == "d"
    error = error_of(command("run", "--data-root", "d", "demo"))
    assert error == "--data-root has no effect on demo; leave it out."


def test_help_shows_presets_choices_and_ranges(command):
    text = " ".join(command("run", "demo", "--help").stdout.split())
    assert "--n INT Number of draws. [default: 30; quick: 10; full: 1000; at least 2]" in text
    assert "--limit [INT|none]" in text
    assert "--guides [map|laplace|mean-field|mc-dropout|nuts],..." in text
    assert "--noisy / --no-noisy" in text
    assert "default: map,laplace; full: map,laplace,mean-field" in text


def test_help_of_run_lists_the_experiments(command):
    text = command("run", "--help").stdout
    assert "demo-data" in text
    assert "Shows the contract." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo"], "There is no experiment 'demoo'. Did you mean demo?"),
        (["run", "zzz"], "There is no experiment 'zzz'. Known are: demo, demo-data."),
        (["run", "demo", "--guide", "map"], "--guides"),
        (["run", "--sed", "1"], "--sed"),
        (["run", "--jobs", "0"], "0 is not in the range x>=1."),
        (["run", "demo", "--n", "many"], "'many' is not a valid integer."),
        (["run", "demo", "--n", "1"], "Option n must be at least 2; got 1. Give a larger value."),
        (["run", "demo", "--scale", "nan"], "scale must be a finite number; got nan."),
        (["run", "demo", "--guides", "mcmc"], "got 'mcmc'. Choose from map, laplace"),
        (["run", "--seed", "-1", "demo"], "Option seed must be at least 0; got -1."),
        (["run", "--quick", "--full"], "exclude each other"),
        (["run", "demo", "--quick", "--full"], "exclude each other"),
        (["run", "demo", "demo"], "Each experiment may be named once; got demo, demo."),
        (["rum"], "No such command 'rum'."),
        (["--wrong"], "No such option"),
        (["report"], "A report needs the results of at least one experiment"),
        (["report", "--results"], "requires an argument"),
        (["report", "--results", ""], "--results must name a folder; got ''. Give 'results', say."),
        (["run", "demo", "--results", " "], "--results must name a folder; got ' '."),
        (["run", "demo", "--n", "9" * 23], "Option n must be of a size of at most 1e+12; got 999"),
        (["run", "demo", "--n", "9" * 5000], "is not a valid integer"),
        (["run", "demo", "--limit", "9" * 23], "Option limit must be of a size of at most 1e+12"),
        (["run", "--seed", "9" * 23], "Option seed must be of a size of at most 1e+12"),
        (["run", "demo", "--scale", "1e300"], "scale must be of a size of at most 1e+12; got 1e+3"),
        (["run", "demo", "--scale", "1e-300"], "zero, or of a size of at least 1e-12; got 1e-300"),
        (["run", "demo", "--guides", ""], "Option guides must be one of the known choices; got ''"),
        (["run", "demo-data", "--data-root", ""], "data_root must be a text that is not empty"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(command, tmp_path, arguments, message):
    assert message in error_of(command(*arguments))
    assert os.listdir(tmp_path) == []


def test_a_bad_option_of_the_last_experiment_stops_the_first(command, tmp_path):
    error_of(command("run", "demo", "demo-data", "--n", "0"))
    assert os.listdir(tmp_path) == []


def test_an_unwritable_folder_is_found_before_the_run(command, tmp_path):
    (tmp_path / "file").write_text("")
    error = error_of(command("run", "--results", "file", "demo", "--mode", "crash"))
    assert "The results folder must be writable; got file (" in error


def test_an_error_while_running_is_one_line_and_ends_the_run(command, tmp_path):
    result = command(
        "run", "--no-progress", "demo-data", "demo", "--mode", "refuse", "--scale", "2"
    )
    assert error_of(result) == "n must be even; got an odd one. Give another."
    assert os.listdir(tmp_path / "results") == ["demo-data"]


def test_debug_shows_the_traceback(command):
    result = command("--debug", "run", "--no-progress", "demo", "--mode", "refuse")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("probml-tp: error: n must be even;")


def test_a_bug_is_not_dressed_up_as_bad_input(command):
    with pytest.raises(RuntimeError, match="a bug"):
        command("run", "demo", "--mode", "crash")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"),
    ],
)
def test_what_does_not_fit_into_memory_is_one_line(command, monkeypatch, error):
    def too_large(config):
        raise error

    monkeypatch.setattr(demo, "misbehave", too_large)
    message = error_of(command("run", "--no-progress", "demo"))
    assert message == f"memory must hold the data and nets; {error}. Give smaller sizes."


def test_an_interruption_leaves_earlier_results_and_nothing_half_written(command, tmp_path):
    command("run", "demo")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = command("run", "--no-progress", "demo", "--mode", "interrupt")
    assert result.exit_code == 130
    assert result.stderr.split("\n") == [
        "",
        "probml-tp: interrupted; what was saved before is kept",
        "",
    ]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_fallback_data_are_said_loudly(command, tmp_path):
    result = command("run", "--no-progress", "demo", "--fallback")
    warning = "FALLBACK DATA in demo: digits rendered from fonts; MNIST could not be had"
    assert result.stderr == f"probml-tp: warning: {warning}\n"
    assert "FALLBACK DATA: digits rendered" in result.stdout
    assert "Fallback data were used" in (tmp_path / "results" / "report.html").read_text()


def test_progress_without_a_terminal_is_plain_lines(command):
    lines = command("run", "demo").stderr.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "[  0%] demo · make data",  # no run of it has been recorded
        "[  0%] demo · fit",
        "[  0%] demo · save results",
    ]
    again = command("run", "demo").stderr.splitlines()  # the first run is its record
    assert [line.partition(" (")[0].partition("] ")[2] for line in again] == [
        "demo · make data", "demo · fit", "demo · save results"
    ]  # fmt: skip


def test_report_is_made_again_from_disk(command, tmp_path):
    command("run", "demo")
    page = tmp_path / "results" / "report.html"
    first = page.read_text()
    page.unlink()
    assert command("report", "--results", "results").stdout == f"Report: {page}\n"
    assert page.read_text() == first


def test_damaged_results_are_one_line(command, tmp_path):
    command("run", "demo")
    (tmp_path / "results" / "demo" / "metrics.json").write_text("{")
    assert "Run the experiment again" in error_of(command("report"))


SCRIPT = """
from probml_tp import experiments
from probml_tp.harness.experiment import Entry, Registry
experiments.EXPERIMENTS = Registry({"demo": Entry("demo_experiment:EXPERIMENT", "Shows.")})
from probml_tp.cli import main
main()
"""


def test_in_a_process_of_its_own(tmp_path, checkout):
    path = os.pathsep.join([str(checkout), str(checkout / "tests" / "support")])
    command = [sys.executable, "-W", "error", "-c", SCRIPT, "run", "demo"]
    environment = os.environ | {"PYTHONPATH": path}

    def run(*more: str):
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    good = run()
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "results" / "report.html").is_file()
    bad = run("--n", "0", "--no-progress")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == (
        "probml-tp: error: Option n must be at least 2; got 0. Give a larger value.\n"
    )


HELP_SCRIPT = """
import sys
from click.testing import CliRunner
from probml_tp.cli import cli
from probml_tp.experiments import EXPERIMENTS
for name in EXPERIMENTS:
    result = CliRunner(catch_exceptions=False).invoke(cli, ["run", name, "--help"])
    assert result.exit_code == 0 and "--seed" in result.stdout, result.output
print(sorted({"torch", "pyro", "arviz", "matplotlib", "numpy"} & {*sys.modules}))
"""


def test_the_help_of_every_experiment_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP_SCRIPT], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


THREADS_SCRIPT = """
import os, sys
from probml_tp.cli import main
sys.argv = ["probml-tp", "list"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.mark.parametrize("given", [None, "active"])
def test_idle_threads_do_not_spin_unless_the_user_says_so(given):
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    own |= {} if given is None else {"OMP_WAIT_POLICY": given}
    command = [sys.executable, "-c", THREADS_SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    assert done.stdout.splitlines()[-1] == f"{given or 'passive'} False", done.stderr
