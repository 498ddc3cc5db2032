"""Results on disk: complete, strict, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import arviz as az
import demo_experiment as demo
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from safetensors.numpy import load_file

from probml_tp.harness.experiment import MAIN_TABLE, Table, run_experiment
from probml_tp.harness.results import (
    read_results,
    require_writable,
    saved_experiments,
    write_digests,
    write_results,
)
from probml_tp.storage.staging import put_in_place, recover, staging


@pytest.fixture
def results():
    return run_experiment(demo.EXPERIMENT, demo.Config(guides=("map", "nuts")))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    results = run_experiment(demo.EXPERIMENT, demo.Config())
    return write_results(results, demo.EXPERIMENT, tmp_path_factory.mktemp("written"))


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_everything_is_written_and_read_back(results, tmp_path):
    results.inference_data["nuts"] = az.from_dict({"w": results.arrays["nuts"][None]})
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    assert set(tree(tmp_path)) == {
        "demo/config.json",
        "demo/environment.json",
        "demo/metrics.json",
        "demo/manifest.json",
        "demo/digests.json",
        "demo/arrays.nc",
        "demo/figures/draws.png",
        "demo/posteriors/map.safetensors",
        "demo/posteriors/nuts.safetensors",
        "demo/posteriors/nuts.nc",
    }
    saved = read_results(folder)
    assert demo.Config(**saved.config) == results.config
    assert saved.all_tables == [results.main]
    assert saved.frame.equals(results.frame)
    assert (saved.title, saved.findings) == (results.title, results.findings)
    assert (saved.data_source, saved.data_is_fallback) == ("rng", False)
    assert saved.preset == "default preset with guides = map nuts"
    assert saved.timings == results.timings
    assert saved.environment["packages"]["torch"]
    assert saved.figures[0].path.read_bytes().startswith(b"\x89PNG")
    assert saved_experiments(tmp_path) == ["demo"]


def test_arrays_tensors_and_draws_survive_exactly(results, tmp_path):
    results.inference_data["nuts"] = az.from_dict({"w": results.arrays["nuts"][None]})
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    expected = results.arrays["nuts"]
    np.testing.assert_array_equal(read_results(folder, arrays=True).arrays["nuts"], expected)
    tensors = load_file(folder / "posteriors" / "nuts.safetensors")
    np.testing.assert_array_equal(tensors["w"], expected)
    record = az.from_netcdf(folder / "posteriors" / "nuts.nc")
    np.testing.assert_array_equal(record.posterior["w"].values[0], expected)


def test_intervals_and_more_tables_survive(results, tmp_path):
    results.main.put("map", {}, {"mean": (np.float64(-0.5), 0.5)})
    results.main.row_heading = "Score"
    results.main.put("nothing", {})
    rows = {"a": {"x": 1.0}}
    results.tables = [Table("More", "Method", rows, {"x": "X"}, {"a": {"x": (0.5, 1.5)}})]
    saved = read_results(write_results(results, demo.EXPERIMENT, tmp_path))
    assert saved.main.ends("mean") == {"map": (-0.5, 0.5)}
    assert saved.main.row_heading == "Score"
    assert saved.main.rows[-1] == "nothing"
    assert saved.tables == results.tables
    assert [table.title for table in saved.all_tables] == [MAIN_TABLE, "More"]


def test_tables_of_one_title_are_refused(results, tmp_path):
    results.tables = [Table(MAIN_TABLE, "Method", {"a": {"x": 1.0}}, {"x": "X"})]
    with pytest.raises(ValueError, match="a title of its own; got Metrics; Metrics"):
        write_results(results, demo.EXPERIMENT, tmp_path)


@pytest.mark.parametrize(
    ("intervals", "reason"),
    [
        ({"map": {"mean": (float("nan"), 1.0)}}, "must be finite; got mean = nan"),
        ({"map": {"unknown": (0.0, 1.0)}}, "must belong to a value; got one of unknown"),
        ({"nobody": {"mean": (0.0, 1.0)}}, "got one of mean in row 'nobody', which has none"),
    ],
)
def test_intervals_of_nothing_are_refused(results, tmp_path, intervals, reason):
    def more() -> Table:
        rows = {row: results.main.row(row) for row in results.main.rows}
        return Table("More", "Method", rows, results.main.columns, intervals)

    def write() -> None:
        results.tables = [more()]
        write_results(results, demo.EXPERIMENT, tmp_path)

    with pytest.raises(ValueError, match=reason):
        write()
    assert tree(tmp_path) == {}


def test_numpy_scalars_become_plain_numbers(results, tmp_path):
    results.main.put("map", {"mean": np.float32(0.5), "sd": np.int64(2)})
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    lines = json.loads((folder / "metrics.json").read_text())
    assert lines[0] == {
        "table": MAIN_TABLE, "row": "map", "metric": "mean", "value": 0.5, "low": None,
        "high": None, "unit": "m",
    }  # fmt: skip
    assert lines[1]["value"] == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_metrics_that_are_not_finite_are_refused(results, tmp_path, value):
    results.main.put("map", {"sd": value})
    with pytest.raises(ValueError, match="must be finite; got sd = .* in row 'map'"):
        write_results(results, demo.EXPERIMENT, tmp_path)
    assert tree(tmp_path) == {}


def test_a_metric_without_a_column_is_refused(results, tmp_path):
    results.main.put("map", {"nll": 1.0})
    with pytest.raises(ValueError, match="'nll' in row 'map'.*mean, sd"):
        write_results(results, demo.EXPERIMENT, tmp_path)


@pytest.mark.parametrize("name", ["../map", "a/b", ".map", "", "mean field"])
def test_names_that_are_no_file_names_are_refused(results, tmp_path, name):
    results.posteriors[name] = results.posteriors["map"]
    with pytest.raises(ValueError, match="becomes a file name"):
        write_results(results, demo.EXPERIMENT, tmp_path)
    assert tree(tmp_path) == {}


def test_results_of_another_experiment_are_refused(results, tmp_path):
    with pytest.raises(ValueError, match="demo-data; got 'demo'"):
        write_results(results, demo.WITH_DATA, tmp_path)


def test_arrays_that_are_neither_numbers_nor_texts_are_refused(results, tmp_path):
    results.arrays["odd"] = np.array([object()])
    experiment = replace(demo.EXPERIMENT, figures=lambda results: ())
    with pytest.raises(ValueError, match="arrays must be of numbers or texts; got"):
        write_results(results, experiment, tmp_path)
    assert tree(tmp_path) == {}


def test_new_results_replace_the_earlier_ones_completely(results, tmp_path):
    write_results(results, demo.EXPERIMENT, tmp_path)
    newer = run_experiment(demo.EXPERIMENT, demo.Config(guides=("laplace",), seed=1))
    folder = write_results(newer, demo.EXPERIMENT, tmp_path)
    assert list(read_results(folder).main.rows) == ["laplace"]
    assert not (folder / "posteriors" / "map.safetensors").exists()
    assert os.listdir(tmp_path) == ["demo"]


def failing_figures(results):
    yield from demo.figures(results)
    raise KeyboardInterrupt


def test_an_interruption_leaves_the_earlier_results(results, tmp_path):
    write_results(results, demo.EXPERIMENT, tmp_path)
    before = tree(tmp_path)
    experiment = replace(demo.EXPERIMENT, figures=failing_figures)
    with pytest.raises(KeyboardInterrupt):
        write_results(results, experiment, tmp_path)
    assert tree(tmp_path) == before


def test_a_failed_move_puts_the_earlier_results_back(results, tmp_path, monkeypatch):
    write_results(results, demo.EXPERIMENT, tmp_path)
    before = tree(tmp_path)
    rename = Path.rename

    def fail(self, target):
        if self.name == "fresh":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ValueError, match=r"demo could not be \(no\)"):
        write_results(results, demo.EXPERIMENT, tmp_path)
    assert tree(tmp_path) == before


def test_folders_of_results_are_as_readable_as_others(results, tmp_path):
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    (tmp_path / "other").mkdir()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be writable; got .*file/results .*--results"):
        require_writable(tmp_path / "file" / "results")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="must be writable"):
        require_writable(tmp_path)


def test_a_read_only_file_system_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ValueError, match="must be writable; got .*Read-only file system"):
        require_writable(tmp_path)


def test_staging_leaves_nothing(tmp_path):
    with staging(tmp_path) as temporary:
        (temporary / "half").write_text("x")
        assert os.listdir(tmp_path) == [temporary.name]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("part", ["manifest.json", "config.json", "metrics.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_damaged_results_are_refused(written, tmp_path, part, content):
    folder = shutil.copytree(written, tmp_path / "demo")
    if content is None:
        (folder / part).unlink()
    else:
        (folder / part).write_text(content)
    with pytest.raises(ValueError, match="must hold the files that a run wrote.*again"):
        read_results(folder)


def test_results_in_another_format_are_refused(results, tmp_path):
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="another version"):
        read_results(folder)


@pytest.mark.parametrize(
    ("part", "place", "value", "reason"),
    [
        ("metrics.json", (0, "value"), float("inf"), "holds Infinity, which is no number"),
        (
            "metrics.json",
            (0, "value"),
            "1e999",
            "must be a finite number; got '1e999'",
        ),
        ("metrics.json", (0, "value"), 10**400, r"its? ?\[0\].value must be a finite number"),
        ("metrics.json", (0, "value"), True, r"\[0\].value must be a finite number; got True"),
        ("metrics.json", (0, "value"), None, r"\[0\].value must be a finite number; got None"),
        ("metrics.json", (0,), [1.0], r"\[0\] must be an object"),
        ("manifest.json", ("findings",), "one", "its findings must be a list; got 'one'"),
        ("manifest.json", ("findings", 0), 3, r"its findings\[0\] must be a text; got 3"),
        ("manifest.json", ("findings", 0), "\ud800", "is no text: it has half of a character"),
        ("manifest.json", ("figures", 0, "name"), "../../a", "becomes a file name must be letters"),
        ("manifest.json", ("figures", 0), {}, r"its figures\[0\] lacks name, title, caption"),
        ("manifest.json", ("shared_stages",), {}, "its shared_stages must be a list"),
        ("manifest.json", ("tables",), [{}], r"its tables\[0\] lacks title"),
        ("manifest.json", ("timings", "fit"), "long", "its timings.fit must be a finite number"),
        ("manifest.json", ("data_is_fallback",), 0, "must be true or false; got 0"),
        ("manifest.json", ("more",), 0, "it has 'more', which no run writes"),
        ("manifest.json", ("format",), None, "its format is None, of another version"),
        ("config.json", ("n",), {"a": 1}, "its n must be of a type that runs write"),
        ("environment.json", ("packages",), [], "its packages must be an object"),
        ("environment.json", ("date",), 20260101, "its date must be a text"),
    ],
)
def test_edited_results_are_refused_by_name(written, tmp_path, part, place, value, reason):
    path = shutil.copytree(written, tmp_path / "demo") / part
    content = inner = json.loads(path.read_text())
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{part} is not as it was written \(.*{reason}.*again"):
        read_results(path.parent)


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("metrics.json", '"row": "map"', '"row": "mpa"'),
        ("manifest.json", '"rng"', '"rgn"'),
        ("config.json", '"seed": 0', '"seed": 1'),
        ("environment.json", '"python": "3', '"python": "2'),
    ],
)
def test_a_changed_character_is_seen(written, tmp_path, part, old, new):
    path = shutil.copytree(written, tmp_path / "demo") / part
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{part} is not as .* does not agree with its digest"):
        read_results(path.parent)
    write_digests(path.parent)
    read_results(path.parent)


def test_results_without_a_table_are_refused(written, tmp_path):
    path = shutil.copytree(written, tmp_path / "demo") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tables": []}))
    write_digests(path.parent)
    with pytest.raises(ValueError, match=r"manifest.json is not .* tables must be at least one"):
        read_results(path.parent)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("table", "Others", r"its \[0\].table must be one of manifest"),
        ("low", 1.0, r"its \[0\] must have both ends of an interval"),
    ],
)
def test_numbers_that_belong_nowhere_are_refused(written, tmp_path, place, value, reason):
    path = shutil.copytree(written, tmp_path / "demo") / "metrics.json"
    lines = json.loads(path.read_text())
    lines[0][place] = value
    path.write_text(json.dumps(lines))
    write_digests(path.parent)
    with pytest.raises(ValueError, match=rf"metrics.json is not as it was written \(.*{reason}"):
        read_results(path.parent)


@pytest.mark.parametrize("content", [None, b"", b"changed"])
def test_damaged_arrays_and_digests_are_refused(written, tmp_path, content):
    folder = shutil.copytree(written, tmp_path / "demo")
    for name in ("arrays.nc", "digests.json"):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        damaged = "arrays.nc" if name == "arrays.nc" else r"\w+.json"
        with pytest.raises(ValueError, match=rf"{damaged} is not as it was written .*again"):
            read_results(folder, arrays=True)


@pytest.mark.parametrize("part", ["manifest", "config", "environment", "metrics"])
def test_every_key_is_needed(written, tmp_path, part):
    path = shutil.copytree(written, tmp_path / "demo") / f"{part}.json"
    content = json.loads(path.read_text())
    for key in content if part in ("manifest", "environment") else ():
        path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        with pytest.raises(ValueError, match=rf"{part}\.json is not as it was written \(.*"):
            read_results(path.parent)
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, '"\xff"'):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{part}\.json is not as it was written"):
            read_results(path.parent)


def test_a_full_disk_is_named_and_keeps_the_earlier_results(results, tmp_path, monkeypatch):
    write_results(results, demo.EXPERIMENT, tmp_path)
    results.inference_data["nuts"] = az.from_dict({"w": results.arrays["nuts"][None]})
    before = tree(tmp_path)
    for owner, name in (
        (Path, "write_bytes"), (Path, "write_text"), (os, "fsync"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, no_space)
            with pytest.raises(ValueError, match=r"demo could not be \(No space left.*Make room"):
                write_results(results, demo.EXPERIMENT, tmp_path)
        assert tree(tmp_path) == before
        assert os.listdir(tmp_path) == ["demo"]


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_record_is_whole_in_memory_before_it_is_written(results, tmp_path, monkeypatch):
    record = az.from_dict(
        {"w": results.arrays["nuts"][None], "k": np.arange(30)[None]}, observed_data={"y": [1.0]}
    )
    record.attrs["seed"] = 3
    results.inference_data["nuts"] = record
    folder = write_results(results, demo.EXPERIMENT, tmp_path)
    read = az.from_netcdf(folder / "posteriors" / "nuts.nc")
    assert read.groups() == record.groups()
    assert read.attrs == record.attrs
    assert all(read[group].identical(record[group]) for group in record.groups())


def test_a_kill_between_the_two_moves_is_mended_at_the_next_start(results, tmp_path, monkeypatch):
    write_results(results, demo.EXPERIMENT, tmp_path)
    newer = run_experiment(demo.EXPERIMENT, demo.Config(guides=("laplace",), seed=1))
    killed_between_the_moves(tmp_path, newer, monkeypatch)
    assert saved_experiments(tmp_path) == []
    recover(tmp_path)
    assert list(read_results(tmp_path / "demo").main.rows) == ["laplace"]
    assert os.listdir(tmp_path) == ["demo"]


def test_the_earlier_results_are_back_where_the_fresh_ones_are_gone(results, tmp_path, monkeypatch):
    write_results(results, demo.EXPERIMENT, tmp_path)
    before = tree(tmp_path)
    left = killed_between_the_moves(tmp_path, results, monkeypatch)
    shutil.rmtree(left / "fresh")
    require_writable(tmp_path)
    assert tree(tmp_path) == before


def killed_between_the_moves(folder, results, monkeypatch):
    """What is on disk when a process dies there, whose lock goes with it."""
    rename = Path.rename

    def die(self, target):
        if self.name != "fresh":
            return rename(self, target)
        shutil.copytree(self.parent, folder / "copy")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            write_results(results, demo.EXPERIMENT, folder)
    shutil.rmtree(folder / "demo")
    return (folder / "copy").rename(folder / ".probml-tp-dead")


def test_staging_folders_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    (tmp_path / ".probml-tp-dead" / "fresh").mkdir(parents=True)
    with staging(tmp_path) as first:
        (first / "half").write_text("x")
        with staging(tmp_path) as second:
            recover(tmp_path)
            assert sorted(os.listdir(tmp_path)) == sorted([first.name, second.name])
            assert (first / "half").exists()
    assert os.listdir(tmp_path) == []


def test_all_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("probml_tp.storage.staging.sync", lambda path: synced.append(path.name))
    with staging(tmp_path) as temporary:
        (temporary / "fresh" / "deep").mkdir(parents=True)
        (temporary / "fresh" / "deep" / "file").write_text("x")
        put_in_place(temporary, tmp_path / "target")
    assert synced == ["fresh", "file", "deep", tmp_path.name]
    assert (tmp_path / "target" / "deep" / "file").read_text() == "x"


def test_a_folder_without_results_lists_none(tmp_path):
    assert saved_experiments(tmp_path) == []
    assert saved_experiments(tmp_path / "missing") == []


def test_figures_are_arranged_once_and_drawn_once(results, tmp_path, monkeypatch):
    calls = {"arranged": 0, "drawn": 0}

    def counted(name, plain):
        def call(*args, **kwargs):
            calls[name] += 1
            return plain(*args, **kwargs)

        return call

    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", counted("arranged", ConstrainedLayoutEngine.execute)
    )
    monkeypatch.setattr(Figure, "draw", counted("drawn", Figure.draw))
    figures = [replace(f, figure=_arranged()) for f in demo.EXPERIMENT.figures(results)]
    experiment = replace(demo.EXPERIMENT, figures=lambda _: figures)
    folder = write_results(results, experiment, tmp_path)
    assert calls == dict.fromkeys(calls, len(figures))
    with Image.open(folder / "figures" / "draws.png") as image:
        assert image.size == (450, 300)


def _arranged():
    made = Figure(figsize=(3, 2), layout="constrained")
    made.subplots().plot([0, 1])
    return made
