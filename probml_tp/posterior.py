"""A fitted posterior: draws, predictions, densities, saving and loading."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.room import check_room
from probml_tp.checks.values import positive_integer
from probml_tp.environment import package_versions
from probml_tp.fit_info import FitInfo
from probml_tp.guide import Guide, check_num_atoms
from probml_tp.likelihoods import ClassificationLikelihood
from probml_tp.model import BayesianModel, check_model
from probml_tp.predictions.draws import Vectorize, draw_batches, draw_chunks
from probml_tp.predictions.links import Link
from probml_tp.predictions.normal_outputs import predict_from_moments
from probml_tp.predictions.predictive import accumulator_for
from probml_tp.storage.tensor_files import read_tensors, tensor_file, write_tensors
from probml_tp.streams import seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import arviz as az

__all__ = ["Posterior"]

FORMAT = "probml_tp posterior 2"


class Posterior:
    """An approximate posterior with everything one asks of it.

    Args:
        guide: the fitted guide.
        seed: the seed of the fit; draws are determined by it unless another is given.
        info: how it was found.

    Example:
        >>> from probml_tp import BayesianModel, Delta, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> Posterior(Delta(model)).predict(torch.zeros(4, 1)).mean.shape
        torch.Size([4])
    """

    @checked()
    def __init__(self, guide: Guide, *, seed: int = 0, info: FitInfo | None = None) -> None:
        self.guide = guide
        self.seed = seed
        self.info = info or FitInfo()

    @property
    def model(self) -> BayesianModel:
        """The model whose posterior this is."""
        return self.guide.model

    @property
    def name(self) -> str:
        """The guide's name, such as ``"mean-field"``."""
        return self.guide.name

    @property
    def converged(self) -> bool | None:
        """Whether the fit has settled, by ``info.convergence``; ``None``: nothing to tell."""
        return self.info.convergence.converged if self.info.convergence else None

    def __repr__(self) -> str:
        """Guide, model, and whether the fit has settled, with the figure."""
        settled = f", {self.info.convergence}" if self.info.convergence else ""
        return f"<Posterior {self.name} of {self.model.name}{settled}>"

    @checked()
    def draws(self, num_samples: int = 100, *, seed: int | None = None) -> dict[str, Tensor]:
        """Independent draws of every site.

        Args:
            num_samples: how many, ``S``.
            seed: determines them; default: the posterior's.

        Returns:
            ``{site: (S, *shape)}``, in the sites' own (constrained) space.

        Raises:
            ValueError: they do not fit into memory.
        """
        self._check_room(f"{num_samples:,} draws", num_samples * self.model.num_params)
        chunks = [d for _, d in draw_chunks(self.guide, num_samples, seed=self._seed(seed))]
        if len(chunks) == 1:
            return dict(chunks[0])
        return {name: torch.cat([c[name] for c in chunks]) for name in chunks[0]}

    @checked()
    def predict(
        self,
        x: object,
        *,
        num_samples: int = 100,
        keep_outputs: bool = False,
        batch_size: int = 250,
        vectorize: Vectorize = "auto",
        link: Link | None = None,
        seed: int | None = None,
    ) -> Any:
        """The predictive distribution at ``x``.

        Draws are taken once and used for every batch, so that each is one consistent function.
        Memory beyond the result does not grow with ``num_samples`` nor the number of points.
        Where the outputs are normal with known moments (exact regression, linearised Laplace) these
        are used instead of draws of the parameters, unless outputs are to be kept: in closed form
        for regression with known noise, by a link for classification.

        Args:
            x: inputs ``(N, ...)``.
            num_samples: draws to average over, ``S``; a guide of finitely many points (MAP, an
                ensemble) uses each of them once instead.
            keep_outputs: keep the net's outputs at every draw, ``(S, N, k)``.
            batch_size: points at a time.
            vectorize: run draws in a loop, by vmap, or whichever suits the net.
            link: how class probabilities follow from normal outputs: ``"sampled"`` (the default)
                averages over ``num_samples`` draws of each point's outputs, whose random numbers
                are the same at all points; ``"probit"`` and ``"laplace-bridge"`` are closed forms,
                see :mod:`probml_tp.predictions.links`.
            seed: determines the draws; default: the posterior's.

        Returns:
            A :class:`ClassificationPredictive` or a :class:`RegressionPredictive`.

        Raises:
            ValueError: ``x`` is empty, not finite or of a wrong shape, or ``link`` does not apply.
        """
        inputs = self.model.check_inputs(x)
        count, seed = self._num_samples(num_samples), self._seed(seed)
        positive_integer("batch_size", batch_size)
        first = None if keep_outputs else self.guide.function_moments(inputs[:batch_size])
        self._check_link(link, has_moments=first is not None)
        if first is not None:
            rest = (self.guide.function_moments(part) for part in inputs.split(batch_size)[1:])
            moments = [first, *(part for part in rest if part is not None)]
            likelihood = self.model.likelihood
            return predict_from_moments(
                likelihood, moments, link=link or "sampled", num_samples=count, seed=seed
            )
        if keep_outputs:
            outputs = self.model.outputs(self.model.initial_params(), inputs[:1])
            self._check_room(f"{count:,} outputs a point", count * len(inputs) * outputs.numel())
        accumulator = accumulator_for(
            self.model.likelihood,
            len(inputs),
            keep_outputs=keep_outputs,
            is_whole=self.guide.num_atoms is not None,
        )
        for batch in draw_batches(
            self.guide,
            inputs,
            num_samples=count,
            seed=seed,
            batch_size=batch_size,
            vectorize=vectorize,
        ):
            accumulator.update(batch)
        return accumulator.result()

    @checked()
    def log_likelihood(
        self, x: object, y: object, *, num_samples: int = 100, seed: int | None = None
    ) -> Tensor:
        r"""Pointwise :math:`\log p(y_n \mid x_n, \theta_s)` in nats, ``(S, N)``.

        Raises:
            ValueError: the data do not fit the model.
        """
        inputs, targets = self.model.check_data(x, y)
        self._check_room(f"{num_samples:,} x {len(inputs):,} values", num_samples * len(inputs))
        found = torch.empty(0)
        for batch in draw_batches(
            self.guide, inputs, num_samples=num_samples, seed=self._seed(seed)
        ):
            values = self.model.likelihood.log_prob(
                batch.outputs, targets[batch.points], batch.params
            )
            if not len(found):
                found = values.new_empty(num_samples, len(inputs))
            found[batch.draws, batch.points] = values
        return found

    @checked()
    def log_predictive_density(
        self, x: object, y: object, *, num_samples: int = 100, seed: int | None = None
    ) -> Tensor:
        r""":math:`\log \tfrac1S\sum_s p(y_n \mid x_n, \theta_s)` in nats, shape ``(N,)``.

        Its negative mean is the test negative log likelihood. Memory is flat in ``S``.

        Raises:
            ValueError: the data do not fit the model.
        """
        inputs, targets = self.model.check_data(x, y)
        count = self._num_samples(num_samples)
        total = torch.full((len(inputs),), -torch.inf, dtype=torch.float64, device=inputs.device)
        for batch in draw_batches(self.guide, inputs, num_samples=count, seed=self._seed(seed)):
            values = self.model.likelihood.log_prob(
                batch.outputs, targets[batch.points], batch.params
            )
            chunk = values.double().logsumexp(0)
            total[batch.points] = torch.logaddexp(total[batch.points], chunk)
        return total - torch.tensor(count, dtype=torch.float64).log()

    @checked(sites=None)
    def to_inference_data(
        self,
        x: object,
        y: object,
        *,
        num_samples: int = 1000,
        sites: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> az.InferenceData:
        """The posterior as an ArviZ record; see :func:`probml_tp.to_inference_data`."""
        from probml_tp.records import to_inference_data  # ArviZ takes a second

        return to_inference_data(self, x, y, num_samples=num_samples, sites=sites, seed=seed)

    # ------------------------------------------------------------------------- saving, loading

    @checked()
    def save(self, path: str | Path) -> Path:
        """Write the posterior as plain tensors (safetensors), with the model's spec and versions.

        The file has a digest of each tensor and of the header, which :meth:`load` compares.

        Args:
            path: the file; ``.safetensors`` is appended if it has no such ending.

        Returns:
            The file's path.

        Raises:
            ValueError: a tensor is not finite, the folder cannot be written, or the disk is full.
        """
        path = tensor_file(path)
        guide = self.guide.savable()
        header = {
            "format": FORMAT,
            "guide": type(guide).name,
            "options": json.dumps(guide.options()),
            "model": json.dumps(self.model.spec()),
            "seed": str(self.seed),
            "info": json.dumps(asdict(self.info)),
            "versions": json.dumps(package_versions()),
        }
        write_tensors(path, guide.state_dict(), header)
        return path

    @classmethod
    @checked()
    def load(cls, path: str | Path, model: BayesianModel) -> Posterior:
        """Read a posterior back.

        Args:
            path: a file written by :meth:`save`.
            model: the model it was fitted to; specs are compared.

        Returns:
            The posterior.

        Raises:
            ValueError: the file is missing, damaged (a bit has changed) or of another format, its
                guide is unknown, or it was fitted to another model.
        """
        texts, tensors = read_tensors(Path(path), "posterior", form=FORMAT)
        header = _parse(texts, Path(path))
        _check_same_model(header["model"], model, path)
        if header["guide"] not in Guide.registry:
            raise ValueError(
                f"the guide of a saved posterior must be known; {path} has {header['guide']!r}, "
                f"known are {sorted(Guide.registry)}. Import the module that defines it."
            )
        try:
            with seeded(header["seed"], model.device):  # a guide may draw its initial values
                guide = Guide.registry[header["guide"]](model, **header["options"])
            info = FitInfo(**header["info"])
        except TypeError as error:
            raise ValueError(
                f"a saved posterior must have the options of its guide; {path} has others "
                f"({error}). Save it again."
            ) from error
        guide.load_tensors(tensors)
        return cls(guide, seed=header["seed"], info=info)

    # ----------------------------------------------------------------------------- internals

    def _seed(self, seed: int | None) -> int:
        return self.seed if seed is None else seed

    def _check_room(self, what: str, count: int) -> None:
        check_room(what, count, self.model.dtype, remedy="Take fewer draws, or fewer points.")

    def _num_samples(self, num_samples: int) -> int:
        return check_num_atoms(self.guide) or num_samples

    def _check_link(self, link: Link | None, *, has_moments: bool) -> None:
        if link is None:
            return
        if link not in get_args(Link):
            raise ValueError(f"link must be one of {get_args(Link)}; got {link!r}.")
        if not has_moments or not isinstance(self.model.likelihood, ClassificationLikelihood):
            raise ValueError(
                f"a link turns normal outputs into class probabilities, without keeping outputs; "
                f"got link={link!r} for the {self.name} posterior of {self.model.name}. Leave link "
                f"out, or fit LinearizedLaplace to a classifier."
            )


def _parse(header: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = {k: json.loads(header[k]) for k in ("options", "model", "info")}
        if not all(isinstance(value, dict) for value in parsed.values()):
            raise ValueError("a part of it is no mapping")
        return parsed | {"guide": header["guide"], "seed": int(header["seed"])}
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"a saved posterior must have a whole header; that of {path} is not ({error}). "
            f"Save it again."
        ) from error


def _check_same_model(saved: dict[str, Any], model: BayesianModel, path: str | Path) -> None:
    if differing := check_model(model).differences(saved):
        there, here = next(iter(differing.values()))
        raise ValueError(
            f"a posterior must be loaded into the model it was fitted to; {path} differs in "
            f"{', '.join(differing)}: {there[:200]} there, {here[:200]} here. Build the model as "
            f"it was."
        )
