"""The wheel: complete, nothing more, and usable where there is no checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

FOLDERS = {
    "probml_tp": "probml_tp",
    "models": "probml_tp/models",
    "guides": "probml_tp/guides",
    "experiments": "probml_tp/experiments",
}
FILES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")


def sources(folder: Path) -> list[Path]:
    """The files below a folder, less what Python, the symbolic links and hidden folders add."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    """The wheel, built by way of the sdist from a copy that lacks the symbolic links."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copy(checkout / name, copy)
    for folder in FOLDERS:
        for path in sources(checkout / folder):
            target = copy / path.relative_to(checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts of a virtual environment with the wheel and this environment's other packages."""
    root = tmp_path_factory.mktemp("venv")
    venv.create(root, with_pip=False)
    scripts = root / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "--quiet"]
    command = [*pip, "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = next(root.rglob("site-packages"))
    (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_the_wheel_holds_the_files_of_the_tree_and_no_other(wheel, checkout):
    expected = {
        f"{target}/{path.relative_to(checkout / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in sources(checkout / folder)
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "probml_tp/py.typed" in names
    assert "probml_tp/harness/report/report.html.jinja" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


SCRIPT = """
import importlib, pathlib, pkgutil, probml_tp
names = [m.name for m in pkgutil.walk_packages(probml_tp.__path__, "probml_tp.")]
for name in names:
    importlib.import_module(name)
print(pathlib.Path(probml_tp.__file__).parent)
print(*names)
"""


def test_every_module_imports_outside_the_checkout(installed, checkout, tmp_path):
    command = [installed / "python", "-I", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, names = done.stdout.splitlines()
    assert installed.parent in Path(place).parents
    modules = {
        f"{target}/{path.relative_to(checkout / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in sources(checkout / folder)
        if path.suffix == ".py"
    }
    expected = {name.removesuffix(".py").removesuffix("/__init__") for name in modules}
    assert set(names.split()) == {e.replace("/", ".") for e in expected} - {"probml_tp"}


def test_the_command_works_outside_the_checkout(installed, tmp_path):
    command = [installed / "probml-tp", "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "linear-regression" in done.stdout
