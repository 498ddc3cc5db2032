"""The classical posteriors written again by hand for NumPyro, and its NUTS run on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

from probml_tp.models import breast_cancer
from probml_tp.models.curves import DUGONG_AGES, DUGONG_LENGTHS, GP_JITTER, GP_X, GP_Y
from probml_tp.models.hierarchical import RAT_DAYS, RAT_WEIGHTS, SCHOOLS_SIGMA, SCHOOLS_Y

numpyro.enable_x64()

Array = Any


def _schools(theta: Array) -> None:
    y = jnp.array(SCHOOLS_Y)
    numpyro.sample("y", dist.Normal(theta, jnp.array(SCHOOLS_SIGMA)), obs=y)


def eight_schools_centered() -> None:
    """Rubin (1981)."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    numpyro.deterministic("log_tau", jnp.log(tau))
    _schools(numpyro.sample("theta", dist.Normal(mu, tau).expand([8])))


def eight_schools_noncentered() -> None:
    """The same, without centring."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    numpyro.deterministic("log_tau", jnp.log(tau))
    eta = numpyro.sample("eta", dist.Normal(0, 1).expand([8]))
    _schools(numpyro.deterministic("theta", mu + tau * eta))


def funnel() -> None:
    """Neal (2003)."""
    v = numpyro.sample("v", dist.Normal(0, 3))
    z = numpyro.sample("z", dist.Normal(0, jnp.exp(v / 2)).expand([9]))
    numpyro.deterministic("log_abs_z", jnp.log(jnp.abs(z)))


def dugongs_line() -> None:
    """A straight line in the log age."""
    a = numpyro.sample("intercept", dist.Normal(0, 2))
    b = numpyro.sample("slope", dist.Normal(0, 2))
    mean = a + b * jnp.log(jnp.array(DUGONG_AGES))
    numpyro.sample("y", dist.Normal(mean, 0.09), obs=jnp.array(DUGONG_LENGTHS))


def dugongs() -> None:
    """Carlin & Gelfand (1991)."""
    alpha = numpyro.sample("alpha", dist.Normal(2.5, 1))
    beta = numpyro.sample("beta", dist.Normal(1, 1))
    decay = numpyro.sample("decay", dist.Uniform(0.5, 1))
    noise = numpyro.sample("noise_scale", dist.HalfNormal(0.5))
    mean = alpha - beta * decay ** jnp.array(DUGONG_AGES)
    numpyro.sample("y", dist.Normal(mean, noise), obs=jnp.array(DUGONG_LENGTHS))


def rats() -> None:
    """Gelfand et al. (1990)."""
    mu_a = numpyro.sample("mu_alpha", dist.Normal(240, 50))
    mu_b = numpyro.sample("mu_beta", dist.Normal(6, 5))
    tau_a = numpyro.sample("tau_alpha", dist.HalfNormal(30))
    tau_b = numpyro.sample("tau_beta", dist.HalfNormal(2))
    noise = numpyro.sample("noise_scale", dist.HalfNormal(20))
    a = numpyro.sample("all_alpha", dist.Normal(mu_a, tau_a).expand([30]))
    b = numpyro.sample("all_beta", dist.Normal(mu_b, tau_b).expand([30]))
    numpyro.deterministic("alpha", a[:3])
    numpyro.deterministic("beta", b[:3])
    numpyro.deterministic("newborn", mu_a - 22 * mu_b)
    mean = a[:, None] + b[:, None] * (jnp.array(RAT_DAYS) - 22)
    numpyro.sample("y", dist.Normal(mean, noise), obs=jnp.array(RAT_WEIGHTS, float))


def gaussian_process() -> None:
    """Squared exponential kernel, function values as they are, not whitened."""
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    noise = numpyro.sample("noise_scale", dist.HalfNormal(1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([len(GP_X)]))
    x = jnp.array(GP_X)
    kernel = jnp.exp(-0.5 * (x[:, None] - x) ** 2 / rho**2) + GP_JITTER * jnp.eye(len(GP_X))
    f = numpyro.deterministic("f", alpha * jnp.linalg.cholesky(kernel) @ z)
    numpyro.sample("y", dist.Normal(f, noise), obs=jnp.array(GP_Y))


def cancer() -> None:
    """Logistic regression."""
    data = breast_cancer()
    weight = numpyro.sample("weight", dist.Normal(0, 2.5).expand([1, 4]))
    bias = numpyro.sample("bias", dist.Normal(0, 2.5).expand([1]))
    logits = jnp.array(data.x.numpy()) @ weight[0] + bias[0]
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=jnp.array(data.y.numpy()))


PROGRAMS: dict[str, Callable[[], None]] = {
    "dugongs-line": dugongs_line,
    "breast-cancer": cancer,
    "dugongs": dugongs,
    "rats": rats,
    "gaussian-process": gaussian_process,
    "eight-schools-noncentered": eight_schools_noncentered,
    "eight-schools-centered": eight_schools_centered,
    "funnel": funnel,
}


def sample(
    name: str, *, num_samples: int, warmup: int, chains: int, target_accept: float, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Chains of NumPyro's NUTS, ``{quantity: (chains, draws, *shape)}``, and the divergences."""
    kernel = NUTS(PROGRAMS[name], target_accept_prob=target_accept)
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=num_samples, num_chains=chains,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(seed))
    draws = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    return draws, int(mcmc.get_extra_fields()["diverging"].sum())
