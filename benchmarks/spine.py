"""Time the package's own steps against hand-written torch and against Pyro, in one run.

``python benchmarks/spine.py`` prints a Markdown table; ``--write`` puts it in docs/benchmarks.md.
Before anything is timed, contenders are shown to do the same work: equal losses at equal draws.
"""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyro
import torch
import torch.nn.functional as F
from peers import BayesByBackprop, with_dropout
from pyro.infer import NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.ops.integrator import velocity_verlet
from timing import Comparison, Contender, compare, markdown, peak_mib
from torch import Tensor, nn
from torch.optim import Adam

from probml_tp import BayesianModel, MCDropout, MeanFieldNormal, NormalPrior, Posterior
from probml_tp.datasets import load_images
from probml_tp.environment import describe_environment
from probml_tp.evaluate import seeded
from probml_tp.inference.mcmc import _potential
from probml_tp.models import LENET_DROPOUT, lenet, logistic_regression, mlp_regressor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- spine: begin -->", "<!-- spine: end -->"

NOISE = 0.1
PRIOR_SCALE = 1.0
RATES = LENET_DROPOUT
LR = 1e-3
MEMORY_OF = ("nothing", "ours", "plain loop")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: interleaved rounds of the steps; of these a fraction for the predictions.
        steps: MLP steps a round; LeNet's are a tenth.
        predict_rounds: rounds of the predictions.
        digits: points of the MC-dropout prediction.
        draws: draws of the predictions.
        leapfrogs: leapfrog steps a round.
    """

    rounds: int = 15
    steps: int = 200
    predict_rounds: int = 5
    digits: int = 10_000
    draws: int = 100
    leapfrogs: int = 100
    batch: int = 256

    @property
    def lenet_steps(self) -> int:
        """LeNet steps a round."""
        return max(1, self.steps // 10)


QUICK = Size(rounds=3, steps=30, predict_rounds=1, digits=1_000, leapfrogs=20)


# ------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class Digits:
    """Normalised test digits.

    Args:
        x: images ``(N, 1, 28, 28)``.
        y: labels ``(N,)``.
        source: where they came from.
    """

    x: Tensor
    y: Tensor
    source: str


def load_digits(size: int, root: Path | None) -> Digits:
    """MNIST's test digits, or the embedded ones; repeated where there are too few."""
    images = load_images("mnist", "test", root=root, download=False)
    index = torch.arange(size) % len(images)
    repeated = f" (repeated to {size})" if size > len(images) else ""
    return Digits(images.normalized()[index], images.labels[index], images.source + repeated)


# ------------------------------------------------------------------------------------ the steps


def training_step(loss: Callable[[], Tensor], optimizer: Adam) -> Callable[[], None]:
    """What a trainer does with a batch."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def trained(name: str, module: nn.Module, loss: Callable[[], Tensor], **options: Any) -> Contender:
    """A contender that takes optimisation steps; ``options`` are Adam's."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return Contender(name, training_step(loss, Adam(parameters, lr=LR, **options)))


def both_adams(
    name: str, module: nn.Module, loss: Callable[[nn.Module], Tensor], **options: Any
) -> list[Contender]:
    """A peer with torch's default Adam, and a copy of it with the fused one."""
    other = copy.deepcopy(module)
    return [
        trained(f"{name}, Adam", module, partial(loss, module), **options),
        trained(f"{name}, fused Adam", other, partial(loss, other), fused=True, **options),
    ]


def check_close(what: str, ours: Tensor, theirs: Tensor, *, rtol: float = 1e-4) -> None:
    """Refuse to time contenders that do not do the same work."""
    if not torch.allclose(ours, theirs, rtol=rtol, atol=1e-5):
        raise RuntimeError(f"{what} differ: {ours} and {theirs}. Contenders must do the same work.")


# ------------------------------------------------------------------------------- mean-field step


def mean_log_likelihood(model: BayesianModel, outputs: Tensor, y: Tensor) -> Tensor:
    """As one writes it by hand: cross-entropy, or squared error with a constant."""
    if y.dtype == torch.long:
        return -F.cross_entropy(outputs, y)
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi * NOISE**2)).item()
    return -0.5 / NOISE**2 * F.mse_loss(outputs.squeeze(-1), y) - constant


def mean_field_step(
    task: str, model: BayesianModel, x: Tensor, y: Tensor, *, rounds: int, steps: int
) -> Comparison:
    """Ours, Bayes by backprop written by hand, and Pyro's AutoNormal with Trace_ELBO."""
    size = 10 * len(x)
    guide = MeanFieldNormal(model)
    by_hand = BayesByBackprop(model.net, prior_scale=PRIOR_SCALE)

    def hand_loss(net: nn.Module) -> Tensor:
        outputs, kl = net(x)
        return kl / size - mean_log_likelihood(model, outputs, y)

    elbo = pyro_elbo(model, x, y, size)
    check_by_hand(guide, by_hand, x, y, size)
    check_pyro(guide, elbo, x, y, size)
    contenders = [
        trained("ours", guide, lambda: guide.loss(x, y, size=size), fused=True),
        *both_adams("by hand", by_hand, hand_loss),
        trained("Pyro AutoNormal, Adam", elbo, lambda: elbo(x, y, size=size) / size),
    ]
    other = pyro_elbo(model, x, y, size)
    contenders.append(
        trained(
            "Pyro AutoNormal, fused Adam", other, lambda: other(x, y, size=size) / size, fused=True
        )
    )
    return compare(f"Mean-field step, {task}", contenders, rounds=rounds, steps=steps, warmup=3)


def pyro_elbo(model: BayesianModel, x: Tensor, y: Tensor, size: int) -> nn.Module:
    """Pyro's own objective as a module; one call creates the guide's parameters."""
    init = init_to_value(values=model.initial_params())
    guide = AutoNormal(model, init_loc_fn=init, init_scale=0.01)
    elbo: nn.Module = Trace_ELBO()(model, guide)
    elbo(x, y, size=size)
    return elbo


def check_by_hand(
    guide: MeanFieldNormal, by_hand: BayesByBackprop, x: Tensor, y: Tensor, size: int
) -> None:
    """Equal losses at equal draws: the hand-written net is fed the pieces of our noise."""
    epsilon = torch.randn_like(guide.loc)
    pieces = iter(guide.model.layout.unravel(epsilon).values())
    outputs, kl = by_hand(x, lambda _: next(pieces))
    theirs = kl / size - mean_log_likelihood(guide.model, outputs, y)
    check_close("mean-field losses", guide.loss_at(epsilon, x, y, size=size), theirs)


def check_pyro(guide: MeanFieldNormal, elbo: Any, x: Tensor, y: Tensor, size: int) -> None:
    """Pyro's single-draw ELBO equals the one from our densities at the same draw."""
    with seeded(0):
        theirs = elbo(x, y, size=size)
    with seeded(0):
        draw = elbo.guide(x, y, size=size)
    log_q = guide.log_prob({n: v.unsqueeze(0) for n, v in draw.items()})[0]
    check_close("ELBOs", log_q - guide.model.log_joint(draw, x, y, size=size), theirs)


# ------------------------------------------------------------------------------- MC-dropout step


def dropout_step(x: Tensor, y: Tensor, *, rounds: int, steps: int) -> Comparison:
    """Ours, with its KL term, against nn.Dropout, cross-entropy and Adam's weight decay."""
    model, size = lenet_model(), 10 * len(x)
    guide = MCDropout(model, rates=RATES)
    plain = with_dropout(copy.deepcopy(model.net).requires_grad_(True), RATES)

    def plain_loss(net: nn.Module) -> Tensor:
        return F.cross_entropy(net(x), y)

    with seeded(0):
        ours = guide.loss(x, y, size=size) - guide.kl() / size
    with seeded(0):
        check_close("MC-dropout losses", ours, plain_loss(plain))
    decay = 1 / (size * PRIOR_SCALE**2)
    contenders = [
        trained("ours", guide, lambda: guide.loss(x, y, size=size), fused=True),
        *both_adams("plain", plain, plain_loss, weight_decay=decay),
    ]
    return compare("MC-dropout step, LeNet", contenders, rounds=rounds, steps=steps, warmup=3)


# ------------------------------------------------------------------------- MC-dropout prediction


@torch.no_grad()
def loop_predict(net: nn.Module, x: Tensor, num_samples: int) -> Tensor:
    """The usual loop: forward passes in training mode, probabilities averaged."""
    batches = []
    for batch in x.split(1000):
        total = torch.zeros(())
        for _ in range(num_samples):
            total = total + net(batch).softmax(-1)
        batches.append(total / num_samples)
    return torch.cat(batches)


@torch.no_grad()
def cached_loop_predict(net: nn.Sequential, x: Tensor, num_samples: int) -> Tensor:
    """The same, with the layers before the first dropout run once a batch."""
    first = next(i for i, m in enumerate(net) if isinstance(m, nn.Dropout))
    shared, rest = net[:first], net[first:]
    return torch.cat([loop_predict(rest, shared(batch), num_samples) for batch in x.split(1000)])


def dropout_prediction(digits: Digits, *, draws: int, rounds: int) -> Comparison:
    """Averaged class probabilities; ours also gives entropies, votes and log probabilities."""
    posterior, net = dropout_contenders()
    check_predictions(posterior, net, digits.x[:1000])
    contenders = [
        Contender("ours", lambda: posterior.predict(digits.x, num_samples=draws)),
        Contender("plain loop", lambda: loop_predict(net, digits.x, draws)),
        Contender("loop after shared layers", lambda: cached_loop_predict(net, digits.x, draws)),
    ]
    task = f"MC-dropout prediction, LeNet, {draws} draws, {len(digits.x)} digits"
    return compare(task, contenders, rounds=rounds, steps=1, warmup=0)


def dropout_contenders() -> tuple[Posterior, nn.Sequential]:
    """The same weights, as our posterior and as a net with dropout."""
    model = lenet_model()
    return Posterior(MCDropout(model, rates=RATES)), with_dropout(model.net, RATES)


def check_predictions(posterior: Posterior, net: nn.Sequential, x: Tensor) -> None:
    """Equal shapes, and class probabilities equal up to Monte Carlo error."""
    with seeded(0):
        theirs, again = loop_predict(net, x, 100), loop_predict(net, x, 100)
        cached = cached_loop_predict(net, x, 100)
    ours = posterior.predict(x, num_samples=100).probs
    noise = float((theirs - again).abs().mean())
    for other in (ours, cached):
        if other.shape != theirs.shape or float((other - theirs).abs().mean()) > 1.5 * noise:
            raise RuntimeError("predictions differ. Contenders must do the same work.")


def peak_after(what: str, digits: Digits, draws: int) -> float:
    """Peak memory in MiB of this process once it has predicted."""
    posterior, net = dropout_contenders()
    if what == "ours":
        posterior.predict(digits.x, num_samples=draws)
    elif what == "plain loop":
        loop_predict(net, digits.x, draws)
    return peak_mib()


def peak_memory(size: Size, root: Path | None) -> dict[str, float]:
    """Peak memory of a fresh process for each contender."""
    command = [sys.executable, __file__, "--digits", str(size.digits), "--draws", str(size.draws)]
    command += [] if root is None else ["--data-root", str(root)]
    peaks = {}
    for what in MEMORY_OF:
        done = subprocess.run(
            [*command, "--memory-of", what], check=True, capture_output=True, text=True
        )
        peaks[what] = float(done.stdout.split()[-1])
    return peaks


# ------------------------------------------------------------------------------ design decisions


def loop_or_vmap(
    task: str, model: BayesianModel, x: Tensor, *, draws: int, rounds: int
) -> Comparison:
    """Mean-field prediction by a loop over draws, and by chunked vmap; ours picks one."""
    posterior = Posterior(MeanFieldNormal(model))
    contenders = [
        Contender(
            "ours" if how == "auto" else how,
            partial(posterior.predict, x, num_samples=draws, vectorize=how),
        )
        for how in ("auto", "loop", "vmap")
    ]
    title = f"Mean-field prediction, {task}, {draws} draws, {len(x)} points"
    return compare(title, contenders, rounds=rounds, steps=1)


def leapfrog(
    task: str, model: BayesianModel, x: Tensor, y: Tensor, *, rounds: int, leapfrogs: int
) -> Comparison:
    """NUTS's inner loop: our flat functional potential against Pyro's effect handlers."""
    start = model.initial_params()
    flat = model.layout.ravel(model.unconstrain(start))
    kernels = {
        "ours": (NUTS(potential_fn=_potential(model, x, y)), {"u": flat}, ()),
        "Pyro NUTS(model)": (NUTS(model), start, (x, y)),
    }
    contenders, energies = [], []
    for name, (kernel, initial, data) in kernels.items():
        kernel.initial_params = {n: v.clone() for n, v in initial.items()}
        with seeded(0):
            kernel.setup(0, *data)
        energies.append(kernel._potential_energy_last.detach())
        contenders.append(Contender(name, trajectory(kernel, leapfrogs), units=leapfrogs))
    for energy in energies[1:]:
        check_close("potential energies", energies[0], energy)
    with one_thread():
        return compare(f"Leapfrog step, {task}", contenders, rounds=rounds, steps=1)


def trajectory(kernel: NUTS, leapfrogs: int) -> Callable[[], object]:
    """A run of leapfrog steps with the kernel's own potential, mass matrix and start."""
    z, _, z_grads = kernel._fetch_from_cache()
    with seeded(1):
        r, _ = kernel._sample_r(name="r")
    kinetic_grad = kernel.mass_matrix_adapter.kinetic_grad

    def run() -> object:
        return velocity_verlet(
            z, r, kernel.potential_fn, kinetic_grad, 1e-4, num_steps=leapfrogs, z_grads=z_grads
        )

    return run


@contextmanager
def one_thread() -> Iterator[None]:
    """What a chain runs on in ``sample_nuts``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# -------------------------------------------------------------------------------------- the run


def lenet_model() -> BayesianModel:
    """LeNet with a standard normal prior."""
    return lenet(prior=NormalPrior(PRIOR_SCALE))


def mlp_model() -> BayesianModel:
    """The 1-50-50-1 regressor with known noise."""
    return mlp_regressor(1, hidden=(50, 50), prior=NormalPrior(PRIOR_SCALE), likelihood=NOISE)


def curve(num_points: int) -> tuple[Tensor, Tensor]:
    """A noisy sine for the regressor."""
    x = torch.linspace(-2, 2, num_points).unsqueeze(-1)
    with seeded(0):
        return x, torch.sin(3 * x).squeeze(-1) + NOISE * torch.randn(num_points)


def two_classes(num_points: int) -> tuple[Tensor, Tensor]:
    """Ten features and a label, for logistic regression."""
    with seeded(0):
        x = torch.randn(num_points, 10, dtype=torch.float64)
        logits = x @ torch.linspace(-1, 1, 10, dtype=torch.float64)
        return x, torch.bernoulli(logits.sigmoid())


@contextmanager
def pyro_at_its_best() -> Iterator[None]:
    """Pyro without its argument checks and with parameters of its guides' own."""
    checks = ("distributions_pyro", "distributions_torch", "poutine", "infer")
    with pyro.settings.context(
        module_local_params=True, **{f"validate_{c}": False for c in checks}
    ):
        yield


def training_comparisons(size: Size, digits: Digits) -> Iterator[Comparison]:
    """The steps of mean-field and of MC dropout."""
    x, y = digits.x[: size.batch], digits.y[: size.batch]
    slow = {"rounds": size.rounds, "steps": size.lenet_steps}
    yield mean_field_step(f"LeNet, batch {len(x)}", lenet_model(), x, y, **slow)
    fast = {"rounds": size.rounds, "steps": size.steps}
    yield mean_field_step(
        f"MLP 1-50-50-1, batch {size.batch}", mlp_model(), *curve(size.batch), **fast
    )
    yield dropout_step(x, y, **slow)


def other_comparisons(size: Size, digits: Digits) -> Iterator[Comparison]:
    """Predictions, and the inner loop of NUTS."""
    predict = {"draws": size.draws, "rounds": size.predict_rounds}
    yield dropout_prediction(digits, **predict)
    yield loop_or_vmap("MLP 1-50-50-1", mlp_model(), curve(1000)[0], **predict)
    yield loop_or_vmap("LeNet", lenet_model(), digits.x[: size.batch], **predict)
    nuts = {"rounds": size.rounds, "leapfrogs": size.leapfrogs}
    yield leapfrog(
        "logistic regression, 10 features, 200 points",
        logistic_regression(10, prior=NormalPrior(PRIOR_SCALE)),
        *two_classes(200),
        **nuts,
    )
    yield leapfrog("MLP 1-50-50-1, 100 points", mlp_model(), *curve(100), **nuts)


def verdicts(comparisons: dict[str, Comparison]) -> Iterator[str]:
    """The aims, each with the figure that meets or misses it."""
    for task, comparison in comparisons.items():
        names = list(comparison.seconds)
        by_hand = [n for n in names if n.startswith(("by hand", "plain,"))]
        autonormal = [n for n in names if n.startswith("Pyro AutoNormal")]
        if by_hand:
            ratio = comparison.ratio(comparison.fastest(by_hand))
            yield verdict(f"{task}: {ratio:.2f}x the time of the hand-written step", 1.1, ratio)
        if autonormal:
            ratio = comparison.ratio(comparison.fastest(autonormal))
            yield verdict(f"{task}: {ratio:.2f}x the time of Pyro's", 1.0, ratio)
        if "plain loop" in names:
            ratio = comparison.ratio("plain loop")
            yield verdict(f"{task}: {1 / ratio:.1f}x faster than the plain loop", 1 / 8, ratio)


def verdict(statement: str, limit: float, ratio: float) -> str:
    """One aim, met or missed."""
    aim = f"at least {1 / limit:g}x faster" if limit < 1 else f"at most {limit:g}x"
    return f"- {statement} (aim: {aim}): {'met' if ratio <= limit else '**missed**'}."


def memory_lines(peaks: dict[str, float]) -> list[str]:
    """What prediction adds to the process's peak."""
    base = peaks["nothing"]
    return [
        f"- {what}: {peak - base:.0f} MiB on top of the {base:.0f} MiB of a process that has "
        f"loaded the digits and built the net"
        for what, peak in peaks.items()
        if what != "nothing"
    ]


def report(size: Size, comparisons: list[Comparison], peaks: dict[str, float], source: str) -> str:
    """Everything that one run found, in Markdown."""
    environment = describe_environment()
    packages = environment["packages"]
    setting = (
        f"Run on {environment['date'][:10]}: Python {environment['python']}, torch "
        f"{packages['torch']}, pyro-ppl {packages['pyro-ppl']}, {platform.machine()}, "
        f"{environment['cpus']} CPUs, {torch.get_num_threads()} threads; {size.rounds} rounds "
        f"({size.predict_rounds} of the predictions). Digits: {source}."
    )
    parts = [
        setting,
        "### Aims",
        "\n".join(verdicts({c.task: c for c in comparisons})),
        "### Times",
        markdown(comparisons),
        f"### Peak memory of MC-dropout prediction, {size.draws} draws, {size.digits} digits",
        "\n".join(memory_lines(peaks)),
    ]
    return "\n\n".join(parts)


def run(size: Size, root: Path | None) -> str:
    """Measure everything, and report it."""
    digits = load_digits(size.digits, root)
    comparisons: list[Comparison] = []
    start = time.perf_counter()
    with seeded(0), pyro_at_its_best():
        for group in (training_comparisons, other_comparisons):
            for comparison in group(size, digits):
                click.echo(f"{time.perf_counter() - start:.0f} s: {comparison.task}", err=True)
                comparisons.append(comparison)
    return report(size, comparisons, peak_memory(size, root), digits.source)


def write_page(text: str, page: Path = PAGE) -> None:
    """Put the figures between the page's markers."""
    before, rest = page.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A minute-long pass, with few rounds and digits.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
@click.option("--digits", type=int, hidden=True, default=Size.digits)
@click.option("--draws", type=int, hidden=True, default=Size.draws)
@click.option("--memory-of", type=click.Choice(MEMORY_OF), hidden=True)
def main(
    quick: bool, write: bool, data_root: Path | None, digits: int, draws: int, memory_of: str | None
) -> None:
    if memory_of:
        click.echo(peak_after(memory_of, load_digits(digits, data_root), draws))
        return
    text = run(QUICK if quick else Size(), data_root)
    click.echo(text)
    if write:
        write_page(text)


if __name__ == "__main__":
    main()
