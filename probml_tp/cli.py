"""The command ``probml-tp``: list the experiments, run them, make the report.

Every error that a user can cause is one line on stderr and exit code 2; an interruption is exit
code 130, SIGTERM 143 and SIGHUP 129. Options are checked for all the experiments chosen before the
first of them starts. An experiment that fails ends the run; what was saved before it stays.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from probml_tp import experiments
from probml_tp.cli_sweep import sweep, unknown_experiment
from probml_tp.harness.click_options import config_option, given_values
from probml_tp.harness.config import Size
from probml_tp.harness.experiment import Results
from probml_tp.harness.process import Ended, as_a_command
from probml_tp.harness.runs import Job, run_all

__all__ = ["cli", "main"]

NO_MEMORY = ("allocate memory", "out of memory", "size calculation overflowed")
"""What torch says in a RuntimeError of an array that does not fit."""


@dataclass
class _Settings:
    """What the whole run shares; options after an experiment's name may change it."""

    debug: bool = False
    results: Path = Path("results")
    progress: bool = True
    jobs: int | None = None
    size: Size = "default"
    overrides: dict[str, object] = field(default_factory=dict)


class _OneLineErrors(click.Group):
    """A group whose errors are one line on stderr, whoever raised them."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and leave the process with its exit code."""
        settings = kwargs["obj"] = _Settings()
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
        except Ended as end:
            message = f"ended by {end.name}; what was saved before is kept"
            code = _complain(end.exit_code, message, settings)
        except click.Abort:
            code = _complain(130, "interrupted; what was saved before is kept", settings)
        except click.ClickException as error:
            code = _complain(2, f"error: {error.format_message()}", settings)
        except (ValueError, OSError) as error:
            code = _complain(2, f"error: {error}", settings)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(s in str(error) for s in NO_MEMORY):
                raise
            message = f"error: memory must hold the data and nets; {error}. Give smaller sizes."
            code = _complain(2, message, settings)
        sys.exit(code)


def _complain(code: int, message: str, settings: _Settings) -> int:
    if settings.debug:
        traceback.print_exc()
    click.echo(f"probml-tp: {' '.join(message.split())}", err=True)
    return code


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Make a click callback that keeps a value given in the shared settings."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.obj, name, value)

    return keep


def _store_results(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not value.strip():
        raise click.UsageError(f"--results must name a folder; got {value!r}. Give 'results', say.")
    if value is not None:
        ctx.obj.results = Path(value)


def _results_option() -> click.Option:
    return click.Option(
        ["--results"],
        metavar="DIR",
        expose_value=False,
        callback=_store_results,
        help="Folder of all results and the report.  [default: results]",
    )


def _shared_options() -> list[click.Parameter]:
    """Make the options that may stand before or after an experiment's name."""
    progress = click.Option(
        ["--progress/--no-progress"],
        default=None,
        expose_value=False,
        callback=_store("progress"),
        help="Show what is running and how long is left.  [default: shown]",
    )
    return [
        click.Option(["--quick"], is_flag=True, help="A smoke test: small sizes, few epochs."),
        click.Option(["--full"], is_flag=True, help="The published size: may take hours."),
        _results_option(),
        progress,
    ]


def _size(quick: bool, full: bool, otherwise: Size) -> Size:
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other; give one of them.")
    return "quick" if quick else "full" if full else otherwise


@click.group(cls=_OneLineErrors, invoke_without_command=True)
@click.option(
    "--debug",
    is_flag=True,
    envvar="PROBML_TP_DEBUG",
    expose_value=False,
    is_eager=True,
    callback=_store("debug"),
    help="Show the traceback of an error.",
)
@click.version_option(package_name="probml_tp", prog_name="probml-tp")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """How far can you trust a posterior, and what does its uncertainty buy you?

    \b
    probml-tp run            run every experiment, then make the report
    probml-tp run --quick    the same as a smoke test
    """  # noqa: D301 (the escape is click's mark for lines to be kept)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.add_command(sweep)


def main() -> None:
    """Run the command ``probml-tp``."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: idle threads do not spin
    with as_a_command():
        cli(prog_name="probml-tp")


@cli.command("list")
def list_experiments() -> None:
    """List the experiments."""
    known = experiments.EXPERIMENTS
    width = max(map(len, known))
    for name in known:
        click.echo(f"{name:{width}}  {known.summary(name)}")


@cli.command("report", params=[_results_option()])
@click.pass_obj
def report(settings: _Settings) -> None:
    """Make the report again from the results on disk."""
    _print_report(_report(settings.results))


class _ExperimentGroup(click.Group):
    """Experiments as chained commands, each imported when it is chosen."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(experiments.EXPERIMENTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = experiments.EXPERIMENTS
        if cmd_name in known:
            return _experiment_command(cmd_name)
        if cmd_name.startswith("-"):
            return None
        raise unknown_experiment(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = experiments.EXPERIMENTS
        with formatter.section("Experiments"):
            formatter.write_dl([(name, known.summary(name)) for name in known])


def _experiment_command(name: str) -> click.Command:
    known = experiments.EXPERIMENTS

    @click.pass_obj
    def choose(settings: _Settings, /, quick: bool, full: bool, **given: Any) -> Job:
        size = _size(quick, full, settings.size)
        return _job(name, size, _common(name, settings) | given_values(given))

    options = [config_option(option) for option in known.options(name)]
    return click.Command(
        name,
        params=[*options, *_shared_options()],
        callback=choose,
        help=known.summary(name),
        epilog="More experiments may follow, each with its options.",
    )


def _job(name: str, size: Size, overrides: Mapping[str, object]) -> Job:
    experiment = experiments.EXPERIMENTS[name]
    return Job(experiment, size, experiment.config.preset(size, **overrides))


def _common(name: str, settings: _Settings) -> dict[str, object]:
    """Choose the options of the whole run that this experiment has."""
    known = {option.name for option in experiments.EXPERIMENTS.options(name)}
    return {name: value for name, value in settings.overrides.items() if name in known}


@cli.group(
    "run",
    cls=_ExperimentGroup,
    chain=True,
    invoke_without_command=True,
    subcommand_metavar="[EXPERIMENT [OPTIONS]]...",
    params=[
        *_shared_options(),
        click.Option(["--seed"], type=click.INT, help="Seed of everything random.  [default: 0]"),
        click.Option(["--data-root"], metavar="DIR", help="Folder of the image data sets."),
        click.Option(
            ["--jobs"],
            type=click.IntRange(min=1),
            help="Experiments at once, each in a process of its own with about 1 GB; 1: one after "
            "the other in this one, its chains over the cores.  [default: the number of cores]",
        ),
    ],
)
@click.pass_obj
def run(
    settings: _Settings,
    quick: bool,
    full: bool,
    seed: int | None,
    data_root: str | None,
    jobs: int | None,
) -> None:
    """Run experiments, all of them if none is named, and make the report.

    Options before the first experiment hold for all, options after an experiment's name for
    that one ('probml-tp run EXPERIMENT --help' lists them):

    \b
    probml-tp run --quick
    probml-tp run linear-regression --n 30 two-moons --seed 1
    """  # noqa: D301
    os.environ.setdefault("MPLBACKEND", "agg")
    settings.size, settings.jobs = _size(quick, full, "default"), jobs
    settings.overrides = given_values({"seed": seed, "data_root": data_root})


@run.result_callback()
@click.pass_obj
def _run_chosen(settings: _Settings, jobs: list[Job], /, **_options: object) -> None:
    """Run the chosen experiments, or all."""
    known = experiments.EXPERIMENTS
    jobs = jobs or [_job(name, settings.size, _common(name, settings)) for name in known]
    _check_jobs(jobs, settings)
    saved = _run_jobs(jobs, settings)
    try:  # the page first: whoever reads the tables may stop reading
        page = _report(settings.results)
    finally:
        _print_all(saved)
    _print_report(page)


def _print_all(saved: list[Results[Any]]) -> None:
    from probml_tp.harness.report import console_of, print_results

    console = console_of(sys.stdout)
    for results in saved:
        print_results(results, console=console)


def _check_jobs(jobs: list[Job], settings: _Settings) -> None:
    """Refuse what is wrong with the choice as a whole, before anything runs."""
    names = [job.experiment.name for job in jobs]
    if len(set(names)) < len(names):
        raise click.UsageError(f"Each experiment may be named once; got {', '.join(names)}.")
    used = {name for job in jobs for name in _common(job.experiment.name, settings)}
    if unused := sorted(set(settings.overrides) - used):
        flag = unused[0].replace("_", "-")
        raise click.UsageError(f"--{flag} has no effect on {', '.join(names)}; leave it out.")


def _run_jobs(jobs: list[Job], settings: _Settings) -> list[Results[Any]]:
    """Run them, those that share fits in one process, and give what was saved in their order."""
    from probml_tp.harness.report import console_of

    console = console_of(sys.stderr)
    tracks: dict[str, list[Job]] = {}
    for job in jobs:
        tracks.setdefault(experiments.EXPERIMENTS.shares(job.experiment.name), []).append(job)
    saved: dict[str, Results[Any]] = {}

    def done(results: Results[Any]) -> None:
        saved[results.experiment] = results
        if results.data_is_fallback:
            warning = f"probml-tp: warning: FALLBACK DATA in {results.experiment}: "
            console.print(
                warning + results.data_source, style="bold yellow", markup=False, soft_wrap=True
            )

    run_all(
        list(tracks.values()),
        settings.results,
        console=console,
        done=done,
        jobs=settings.jobs,
        visible=settings.progress,
    )
    return [saved[job.experiment.name] for job in jobs]


def _report(folder: Path) -> Path:
    from probml_tp.harness.report import build_report

    return build_report(folder, order=list(experiments.EXPERIMENTS))


def _print_report(page: Path) -> None:
    click.echo(f"Report: {page.resolve()}")
