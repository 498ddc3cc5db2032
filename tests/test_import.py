"""Importing the package changes nothing outside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, logging, random, sys, warnings
{dependencies}

def state():
    import multiprocessing
    import arviz, matplotlib, numpy, pyro, torch
    return [
        str(torch.get_default_dtype()), torch.get_rng_state().tolist(), torch.get_num_threads(),
        torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        str(torch.get_default_device()), torch.distributions.Distribution._validate_args,
        torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark,
        random.getstate()[1][:5], numpy.random.get_state()[1].tolist(), numpy.geterr(),
        dict(pyro.settings.get()), list(pyro.get_param_store().keys()),
        {{k: str(v) for k, v in matplotlib.rcParams.items()}}, matplotlib.get_backend(),
        {{k: str(v) for k, v in arviz.rcParams.items()}},
        logging.root.level, [str(h) for h in logging.root.handlers], logging.root.disabled,
        sorted(
            (n, l.level, len(l.handlers)) for n, l in logging.root.manager.loggerDict.items()
            if isinstance(l, logging.Logger) and (l.level or l.handlers)
        ),
        [str(f) for f in warnings.filters], str(sys.excepthook), str(sys.displayhook),
        multiprocessing.get_start_method(allow_none=True), dict(__import__("os").environ),
    ]

before = json.dumps(state(), default=str)
import probml_tp
for name in probml_tp.__all__:
    getattr(probml_tp, name)
import probml_tp.models, probml_tp.guides, probml_tp.diagnostics, probml_tp.inference
import probml_tp.plots, probml_tp.datasets, probml_tp.harness.results, probml_tp.harness.report
after = json.dumps(state(), default=str)
if before != after:
    for a, b in zip(json.loads(before), json.loads(after)):
        if a != b:
            print("before:", str(a)[:2000])
            print("after: ", str(b)[:2000])
    sys.exit("changed")
"""

DEPENDENCIES = """
import arviz, joblib, matplotlib, matplotlib.pyplot, numpy, pyro, pyro.infer, safetensors, sklearn
import torch, torchmetrics, torchvision, xarray, h5netcdf
import sklearn.datasets, sklearn.metrics, pyro.infer.autoguide, torchvision.datasets
torch.manual_seed(1); numpy.random.seed(2); random.seed(3)
"""


def run(program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"} | settings
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_importing_everything_changes_no_global_state() -> None:
    result = run(PROBE.format(dependencies=DEPENDENCIES))
    assert result.returncode == 0, result.stdout + result.stderr


ARVIZ = """
import warnings
warnings.simplefilter("error")
import probml_tp.diagnostics
import arviz
assert arviz.preview.__spec__ is not None, "a stand-in is left"
"""


def test_arviz_is_imported_without_its_announcement_and_without_a_cache(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    (tmp_path / "mpl").mkdir()
    result = run(ARVIZ, XDG_CACHE_HOME=str(blocker), MPLCONFIGDIR=str(tmp_path / "mpl"))
    assert (result.returncode, result.stderr) == (0, "")


def test_the_facade_names_what_a_user_needs() -> None:
    import probml_tp

    assert len(set(probml_tp.__all__)) == len(probml_tp.__all__)  # ruff holds their order
    assert all(getattr(probml_tp, name) for name in probml_tp.__all__)
    assert set(dir(probml_tp)) >= set(probml_tp.__all__)
    assert not hasattr(probml_tp, "no_such_name")
