"""The variance of mean-field's gradient estimators, and what a step of each costs, in one run.

``python benchmarks/gradient_variance.py`` prints a Markdown report; ``--write`` puts it in
docs/benchmarks.md and draws docs/figures/gradient-variance.png.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from setups import Digits, curve, lenet_model, load_digits, mlp_model
from steps import step_of
from timing import Comparison, compare
from torch import Tensor

from probml_tp import BayesianModel, MeanFieldNormal, fit
from probml_tp.environment import describe_environment
from probml_tp.guides.weight_noise import ExampleNoise, treatments
from probml_tp.plots.style import figure, house_style, shared_legend
from probml_tp.streams import seeded

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "benchmarks.md", DOCS / "figures" / "gradient-variance.png"
BEGIN, END = "<!-- gradient variance: begin -->", "<!-- gradient variance: end -->"

SHARED = "shared"
LOCAL = "local reparameterisation"
FLIPOUT = "flipout"
LOCAL_FLIPOUT = "local, convolutions by flipout"
POSITIONS = "local at each position"
STYLES = {
    SHARED: ("#000000", "o"),
    LOCAL: ("#0072B2", "s"),
    FLIPOUT: ("#E69F00", "^"),
    LOCAL_FLIPOUT: ("#009E73", "D"),
}
"""Colours of Okabe and Ito (2008), and markers, so that none needs its colour to be told apart."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        digits: points that LeNet is trained on.
        points: points that the MLP is trained on.
        epochs: of training, the first tenth of it up to the middle stage.
        batch: points of the minibatch, and of a training step.
        repeats: evaluations of each gradient.
        losses: evaluations of the objective, for its bias.
        rounds: interleaved rounds of timed steps.
        steps: MLP steps a round; LeNet's are a tenth.
    """

    digits: int = 10_000
    points: int = 1_000
    epochs: int = 40
    batch: int = 256
    repeats: int = 100
    losses: int = 400
    rounds: int = 15
    steps: int = 100


QUICK = Size(digits=2_000, epochs=10, repeats=20, losses=20, rounds=3, steps=20)


@dataclass(frozen=True)
class Task:
    """A model, its data, and how it is trained."""

    name: str
    model: BayesianModel
    x: Tensor
    y: Tensor
    epochs: int
    lr: float
    steps: int


@dataclass(frozen=True)
class Row:
    """One estimator at one stage.

    Args:
        task: the model.
        stage: how far it is trained.
        estimator: the name.
        variance: trace of the gradient's covariance at one minibatch, for means and log scales.
        error: their standard errors.
        total: the same over minibatches drawn anew, means and log scales together.
        seconds: median of a step.
        cost: its time over the shared draw's, the median of the ratios within each round.
    """

    task: str
    stage: str
    estimator: str
    variance: tuple[float, float]
    error: tuple[float, float]
    total: float
    seconds: float
    cost: float


# ------------------------------------------------------------------------------- what is compared


def tasks(size: Size, digits: Digits) -> Iterator[Task]:
    """LeNet on digits, and the regressor."""
    x, y = curve(size.points)
    order = torch.randperm(size.points, generator=torch.Generator().manual_seed(0))
    regressor = mlp_model()
    yield Task("MLP 1-50-50-1", regressor, x[order], y[order], 25 * size.epochs, 5e-3, size.steps)
    steps = max(1, size.steps // 10)
    yield Task("LeNet", lenet_model(), digits.x, digits.y, size.epochs, 5e-3, steps)


def contenders(guide: MeanFieldNormal, x: Tensor, y: Tensor) -> dict[str, MeanFieldNormal]:
    """The estimators at one state of the guide; for convolutions the variants of local noise."""

    def at(estimator: str) -> MeanFieldNormal:
        twin = MeanFieldNormal(guide.model, estimator=estimator)
        twin.load_state_dict(guide.state_dict())
        twin.prepare(x, y)
        return twin

    made = {SHARED: at("shared"), FLIPOUT: at("flipout"), LOCAL: at("local-reparameterization")}
    params = guide.model.constrain(guide.model.layout.unravel(guide.loc.detach()))
    dense, layers = (
        treatments(guide.model, noise, params, x)
        for noise in ("local-reparameterization", "flipout")
    )
    if dense.keys() != layers.keys():
        everywhere = dict.fromkeys(layers, "local-reparameterization")
        for name, chosen in ((LOCAL_FLIPOUT, layers | dense), (POSITIONS, everywhere)):
            made[name] = copy.copy(made[LOCAL])
            made[name]._example_noise = ExampleNoise(guide.model, chosen)
    return made


def stages(task: Task, batch: int) -> Iterator[tuple[str, MeanFieldNormal]]:
    """The guide as it starts, after a tenth of its training, and trained."""
    guide = MeanFieldNormal(task.model, estimator="shared")
    yield "start", guide
    early = max(1, task.epochs // 10)
    options = {"batch_size": batch, "lr": task.lr, "progress": False}
    data = (task.x, task.y)
    fit(task.model, guide, data, epochs=early, **options)
    yield "middle", guide
    rest = task.epochs - early
    fit(task.model, guide, data, epochs=rest, schedule="cosine", **options)
    yield "end", guide


# ---------------------------------------------------------------------------------- measuring it


def gradients(guide: MeanFieldNormal, batches: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """The loss's gradient at each batch, ``(len(batches), 2 P)``: means, then log scales."""
    rows = []
    for x, y in batches:
        loss = guide.loss(x, y, size=n)
        rows.append(torch.cat(torch.autograd.grad(loss, [guide.loc, guide.log_scale])))
    return torch.stack(rows)


def trace_of_covariance(rows: Tensor) -> tuple[float, float]:
    """The trace, and its standard error."""
    n = len(rows)
    squares = (rows - rows.mean(0)).square().sum(1) * (n / (n - 1))
    return squares.mean().item(), squares.std().item() / n**0.5


def variances(
    guide: MeanFieldNormal, task: Task, size: Size
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """At one minibatch: means' and log scales', with their errors; over minibatches: all."""
    batches = [
        torch.randint(len(task.x), (size.batch,), generator=torch.Generator().manual_seed(seed))
        for seed in range(size.repeats)
    ]
    with seeded(0):
        one = (task.x[: size.batch], task.y[: size.batch])
        rows = gradients(guide, [one] * size.repeats, len(task.x))
        anew = [(task.x[index], task.y[index]) for index in batches]
        total, _ = trace_of_covariance(gradients(guide, anew, len(task.x)))
    means, scales = (trace_of_covariance(part) for part in rows.chunk(2, dim=1))
    return (means[0], scales[0]), (means[1], scales[1]), total


def step_times(guides: Mapping[str, MeanFieldNormal], task: Task, size: Size) -> Comparison:
    """A training step of each, as ``fit`` takes it, in interleaved rounds."""
    x, y = task.x[: size.batch], task.y[: size.batch]
    steps = [
        step_of(name, copy.deepcopy(guide), lambda g: g.loss(x, y, size=len(task.x)), fused=True)
        for name, guide in guides.items()
        if name in STYLES
    ]
    return compare(task.name, steps, rounds=size.rounds, steps=task.steps, warmup=3)


def bias(guides: Mapping[str, MeanFieldNormal], task: Task, size: Size) -> dict[str, str]:
    """How far each objective's mean is from that of flipout, in nats a point."""
    x, y = task.x[: size.batch], task.y[: size.batch]
    means, errors = {}, {}
    for name, guide in guides.items():
        with seeded(1), torch.no_grad():
            losses = torch.stack([guide.loss(x, y, size=len(task.x)) for _ in range(size.losses)])
        means[name], errors[name] = losses.mean().item(), losses.std().item() / size.losses**0.5
    differences = {}
    for name in guides.keys() - {FLIPOUT}:
        error = (errors[name] ** 2 + errors[FLIPOUT] ** 2) ** 0.5
        differences[name] = f"{means[name] - means[FLIPOUT]:+.4f} ± {error:.4f}"
    return {name: differences[name] for name in guides if name != FLIPOUT}


def measure(size: Size, digits: Digits) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Every estimator at every stage of every task; the biases of LeNet's objectives."""
    rows, biases, start = [], {}, time.perf_counter()
    for task in tasks(size, digits):
        seconds: Comparison | None = None
        for stage, guide in stages(task, size.batch):
            guides = contenders(guide, task.x, task.y)
            seconds = seconds or step_times(guides, task, size)
            for name, twin in guides.items():
                if name in STYLES:
                    figures = variances(twin, task, size)
                    times = seconds.median(name), 1 / seconds.ratio(name)
                    rows.append(Row(task.name, stage, name, *figures, *times))
            if POSITIONS in guides:
                biases[stage] = bias(guides, task, size)
            click.echo(f"{time.perf_counter() - start:4.0f} s  {task.name}, {stage}", err=True)
    return rows, biases


# ------------------------------------------------------------------------------------ the report


COLUMNS = (
    "Var. means",
    "Var. log scales",
    "Step (ms)",
    "Var. × time, means",
    "Var. × time, log scales",
    "Over minibatches: var.",
    "var. × time",
)


def table(rows: list[Row]) -> str:
    """Side by side; the figure of merit is relative to the shared draw's at the same stage."""
    lines = [
        f"| Model | Stage | Estimator | {' | '.join(COLUMNS)} |",
        "|---|---|---|" + "--:|" * len(COLUMNS),
    ]
    for row in rows:
        base = next(
            r for r in rows if (r.task, r.stage, r.estimator) == (row.task, row.stage, SHARED)
        )
        merits = [
            f"{row.cost * v / b:.2g}" for v, b in zip(row.variance, base.variance, strict=True)
        ]
        traces = [f"{v:.2g} ± {e:.1g}" for v, e in zip(row.variance, row.error, strict=True)]
        first = [row.task, row.stage] if row is base else ["", ""]
        cells = [*first, row.estimator, *traces, f"{1e3 * row.seconds:.3g}", *merits]
        total = row.total / base.total
        lines.append("| " + " | ".join([*cells, f"{total:.2g}", f"{row.cost * total:.2g}"]) + " |")
    return "\n".join(lines)


def bias_table(biases: Mapping[str, Mapping[str, str]]) -> str:
    """Differences of mean losses."""
    names = list(next(iter(biases.values())))
    lines = [f"| Stage | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    lines += [f"| {stage} | {' | '.join(row.values())} |" for stage, row in biases.items()]
    return "\n".join(lines)


def setting(size: Size, digits: Digits) -> str:
    """Where, with what and on what the figures were measured."""
    environment = describe_environment()
    return (
        f"Run on {environment['date'][:10]}: Python {environment['python']}, torch "
        f"{environment['packages']['torch']}, {platform.machine()}, {environment['cpus']} CPUs, "
        f"{torch.get_num_threads()} threads; minibatches of {size.batch}, {size.repeats} gradients "
        f"each, {size.rounds} rounds of timed steps. Digits: {digits.source}."
    )


@house_style()
def draw(rows: list[Row]) -> Figure:
    """Variance against the time of a step's worth: a panel for each model and parameter."""
    names = list(dict.fromkeys(row.task for row in rows))
    made, axes = figure(len(names), 2, sharex=False, sharey=False)
    stage_names = list(dict.fromkeys(row.stage for row in rows))
    for row_of_axes, task in zip(axes, names, strict=True):
        for part, (ax, of) in enumerate(
            zip(row_of_axes, ("means $m$", "log scales $\\log s$"), strict=True)
        ):
            for estimator, (color, marker) in STYLES.items():
                chosen = [r for r in rows if (r.task, r.estimator) == (task, estimator)]
                merit = [1e3 * r.seconds * r.variance[part] for r in chosen]
                if merit:
                    ax.plot(stage_names, merit, color=color, marker=marker, label=estimator)
            ax.set_yscale("log")
            ax.set_title(f"{task}: gradient in the {of}")
            ax.set_ylabel("variance × time\n(nats² ms)")
            ax.set_xlabel("stage of training")
    shared_legend(made, axes.flat)
    return made


def write_page(text: str, page: Path = PAGE) -> None:
    """Put the figures between the page's markers."""
    before, rest = page.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def run(size: Size, root: Path | None) -> tuple[str, Figure]:
    """Measure, and report in Markdown and as a figure."""
    digits = load_digits(size.digits, root)
    rows, biases = measure(size, digits)
    parts = [setting(size, digits), table(rows), BIAS, bias_table(biases)]
    return "\n\n".join(parts), draw(rows)


BIAS = (
    "Bias of the objective: the mean loss of LeNet at one minibatch less that of flipout, in nats "
    "a point (± 1 standard error). *local at each position* is the published treatment of "
    "convolutions:"
)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A short pass: little training, few repeats.")
@click.option("--write", is_flag=True, help="Put the figures into docs/.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
def main(quick: bool, write: bool, data_root: Path | None) -> None:
    text, drawn = run(QUICK if quick else Size(), data_root)
    click.echo(text)
    if write:
        write_page(text)
        FIGURE.parent.mkdir(exist_ok=True)
        drawn.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
