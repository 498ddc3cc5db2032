"""Loading images: files whole and broken, downloads, fallbacks."""

import gzip
import logging
import os
import shutil
import socket
import threading
import warnings
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision import datasets as tv

from probml_tp.datasets import (
    IMAGE_DATASETS,
    DataFallbackWarning,
    MissingDataError,
    default_root,
    embedded_digits,
    letters,
    load_images,
)
from probml_tp.datasets import download as download_module

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
PREFIXES = {"train": "train", "test": "t10k"}


def idx(array):
    """The bytes of an IDX file: a header in big-endian order, then the pixels."""
    header = bytes([0, 0, 8, array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + sizes + array.to(torch.uint8).numpy().tobytes()


def images_of(n):
    """Image ``i`` is ``i`` at (0, 1), ``255 - i`` at (27, 0): asymmetric, so order matters."""
    images = torch.zeros(n, 28, 28)
    images[:, 0, 1] = torch.arange(n)
    images[:, 27, 0] = 255 - torch.arange(n)
    return images


def write_split(root, *, name="mnist", split="test", n=20, packed=False):
    """Write a split of ``n`` images with labels ``i % 10``; return the raw folder."""
    raw = Path(root) / FOLDERS[name] / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    contents = {"images-idx3": idx(images_of(n)), "labels-idx1": idx(torch.arange(n) % 10)}
    for kind, content in contents.items():
        path = raw / f"{PREFIXES[split]}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return raw


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches the network: whoever downloads must be told where from."""

    def refuse(url, *args, **kwargs):
        raise OSError(f"no network in tests: {url}")

    monkeypatch.setattr(download_module, "_await_answer", refuse)


# Whole files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_single_split_is_enough(tmp_path, name, split, packed):
    write_split(tmp_path, name=name, split=split, packed=packed)
    data = load_images(name, split, root=tmp_path)
    assert torch.equal(data.images, images_of(20).to(torch.uint8))
    assert data.labels.tolist() == [i % 10 for i in range(20)]
    assert (data.name, data.split, data.is_fallback) == (name, split, False)
    assert len(data.classes) == 10 and len(set(data.classes)) == 10
    assert data.source.endswith(f"{split} split, 20 real images, from {tmp_path}")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_classes_are_torchvisions(tmp_path, name):
    write_split(tmp_path, name=name)
    assert (
        list(load_images(name, "test", root=tmp_path).classes) == getattr(tv, FOLDERS[name]).classes
    )


def test_torchvision_itself_reads_the_same(tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path, split=split, n=12)
    theirs = tv.MNIST(tmp_path, train=False)
    ours = load_images("mnist", "test", root=tmp_path)
    assert torch.equal(theirs.data, ours.images) and torch.equal(theirs.targets, ours.labels)


def test_mixed_plain_and_packed_files(tmp_path):
    raw = write_split(tmp_path)
    labels = raw / "t10k-labels-idx1-ubyte"
    (raw / f"{labels.name}.gz").write_bytes(gzip.compress(labels.read_bytes()))
    labels.unlink()
    assert len(load_images("mnist", "test", root=tmp_path)) == 20


def test_plain_file_is_preferred_to_packed(tmp_path):
    raw = write_split(tmp_path)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(b"rubbish")
    assert len(load_images("mnist", "test", root=tmp_path)) == 20


def test_reading_writes_nothing(tmp_path):
    raw = write_split(tmp_path, packed=True)
    before = sorted(tmp_path.rglob("*"))
    for path in raw.iterdir():
        path.chmod(0o444)
    raw.chmod(0o555)
    try:
        load_images("mnist", "test", root=tmp_path)
    finally:
        raw.chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before


def test_root_may_be_text(tmp_path):
    write_split(tmp_path)
    assert len(load_images("mnist", "test", root=str(tmp_path))) == 20


def test_max_size_is_stratified_and_deterministic(tmp_path):
    write_split(tmp_path, n=100)
    load = partial(load_images, "mnist", "test", root=tmp_path, max_size=30)
    assert load().labels.bincount().tolist() == [3] * 10
    assert torch.equal(load(seed=4).images, load(seed=4).images)
    assert not torch.equal(load(seed=4).images, load(seed=5).images)
    assert load().source.endswith("; of these a stratified subset of 30 (seed 0)")


def test_global_random_state_is_untouched(tmp_path):
    write_split(tmp_path)
    state = torch.get_rng_state()
    load_images("mnist", "test", root=tmp_path, max_size=10)
    assert torch.equal(torch.get_rng_state(), state)


def test_letters_by_name():
    data = load_images("letters", "test", root="unused", max_size=25, seed=2)
    assert len(data) == 25
    assert set(data.labels.bincount().tolist()) == {2, 3}
    full = {image.numpy().tobytes() for image in letters(n_per_class=3, seed=2).images}
    assert all(image.numpy().tobytes() in full for image in data.images)


# The default root


def test_default_root_is_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBML_TP_DATA", str(tmp_path))
    write_split(tmp_path)
    assert default_root() == tmp_path
    assert len(load_images("mnist", "test")) == 20


def test_default_root_is_else_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PROBML_TP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "probml_tp"


def test_default_root_is_else_in_the_home(monkeypatch):
    monkeypatch.setenv("PROBML_TP_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_root() == Path.home() / ".cache" / "probml_tp"


# Broken files: always an error, never a fallback


def corrupt(path, content):
    """Overwrite a file, and gzip the content if the name says so."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def strict():
    """A fallback would warn: make that an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "content", "received"),
    [
        ("images-idx3", idx(images_of(20))[:-1], "for input of size 15679"),
        ("images-idx3", idx(images_of(20)) + b"\0", "for input of size 15681"),
        ("images-idx3", idx(images_of(20))[:10], "IndexError|ValueError|RuntimeError"),
        ("images-idx3", b"", "cannot be read"),
        ("images-idx3", b"<html>404 not found</html>", "cannot be read"),
        ("images-idx3", b"\0\0\x0b\3" + idx(images_of(20))[4:], "cannot be read"),
        ("images-idx3", b"\0\0\x0a\3" + idx(images_of(20))[4:], "KeyError: 10"),
        ("images-idx3", idx(torch.zeros(20)), "should have 3 dimension instead of 1"),
        ("images-idx3", idx(torch.zeros(0, 28, 28)), "cannot be read"),
        ("labels-idx1", idx(torch.arange(20) % 10)[:-1], "for input of size 19"),
        ("labels-idx1", idx(torch.zeros(20, 1)), "should have 1 dimension instead of 2"),
    ],
)
def test_corrupt_file_is_an_error(tmp_path, strict, kind, content, received, packed):
    raw = write_split(tmp_path, packed=packed)
    path = raw / f"t10k-{kind}-ubyte{'.gz' if packed else ''}"
    corrupt(path, content)
    with pytest.raises(ValueError, match=received) as caught:
        load_images("mnist", "test", root=tmp_path)
    message = str(caught.value)
    assert not isinstance(caught.value, MissingDataError)
    assert str(path) in message and "must be a complete IDX file of" in message
    assert f"{path.stat().st_size:,} bytes" in message
    assert "Delete it and download it again" in message


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, strict, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    raw = write_split(tmp_path)
    monkeypatch.setattr("probml_tp.datasets.idx.read_image_file", refuse)
    with pytest.raises(ValueError, match=r"must be readable; it is not \(Permission denied\)") as e:
        load_images("mnist", "test", root=tmp_path)
    assert str(raw / "t10k-images-idx3-ubyte") in str(e.value)


def test_corrupt_magic_number_is_shown(tmp_path, strict):
    raw = write_split(tmp_path)
    path = raw / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\x50\x4b\x03\x04" + path.read_bytes()[4:])
    with pytest.raises(ValueError, match="00 00 08 03; got 15,696 bytes starting with 50 4b 03 04"):
        load_images("mnist", "test", root=tmp_path)


@pytest.mark.parametrize("keep", [0, 2, 15, -1])
def test_truncated_gzip_is_an_error(tmp_path, strict, keep):
    raw = write_split(tmp_path, packed=True)
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"gz must be a complete IDX .*, gzipped \(1f 8b\); got"):
        load_images("mnist", "test", root=tmp_path)


@pytest.mark.parametrize("position", [3, 15, -6])
def test_damaged_gzip_is_an_error(tmp_path, strict, position):
    raw = write_split(tmp_path, packed=True)
    path = raw / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="must be a complete IDX file of labels"):
        load_images("mnist", "test", root=tmp_path)


def test_plain_content_under_a_gz_name_is_an_error(tmp_path, strict):
    raw = write_split(tmp_path)
    for path in list(raw.iterdir()):
        path.rename(path.with_name(f"{path.name}.gz"))
    with pytest.raises(ValueError, match="starting with 00 00 08 03.*BadGzipFile"):
        load_images("mnist", "test", root=tmp_path)


def test_images_and_labels_must_be_as_many(tmp_path, strict):
    raw = write_split(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(torch.arange(19) % 10))
    with pytest.raises(ValueError, match="got 20 images and 19 labels. Delete both") as caught:
        load_images("mnist", "test", root=tmp_path)
    assert str(raw / "t10k-labels-idx1-ubyte") in str(caught.value)


def test_labels_must_be_classes(tmp_path, strict):
    raw = write_split(tmp_path)
    path = raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(torch.arange(20)))
    with pytest.raises(ValueError, match=r"must hold labels in 0 \.\.\. 9; got 19. Delete it"):
        load_images("mnist", "test", root=tmp_path)


def test_images_must_be_28_by_28(tmp_path, strict):
    raw = write_split(tmp_path)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(torch.zeros(20, 32, 32)))
    with pytest.raises(ValueError, match=r"28 x 28 pixels; got \(20, 32, 32\)"):
        load_images("mnist", "test", root=tmp_path)


# No files


@pytest.mark.parametrize(("split", "size"), [("train", 4000), ("test", 1000)])
def test_mnist_falls_back_loudly(tmp_path, caplog, split, size):
    with (
        caplog.at_level(logging.WARNING, logger="probml_tp"),
        pytest.warns(DataFallbackWarning, match="FALLBACK") as caught,
    ):
        data = load_images("mnist", split, root=tmp_path)
    digits = embedded_digits(split=split)
    assert torch.equal(data.images, digits.images) and torch.equal(data.labels, digits.labels)
    assert data.is_fallback and len(data) == size
    assert data.source.startswith(f"FALLBACK: {size:,} of the 5,000 MNIST training digits")
    assert str(tmp_path / "MNIST" / "raw") in data.source
    assert f"{PREFIXES[split]}-images-idx3-ubyte" in data.source
    assert "no network in tests" in data.source
    assert caplog.messages == [data.source]
    assert [str(w.message) for w in caught] == [data.source]
    assert caught[0].filename == __file__


def test_fallback_leaves_no_trace_in_an_empty_root(tmp_path):
    with pytest.warns(DataFallbackWarning):
        load_images("mnist", "test", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fallback_takes_max_size(tmp_path):
    with pytest.warns(DataFallbackWarning):
        data = load_images("mnist", "test", root=tmp_path, max_size=100)
    assert data.is_fallback and data.labels.bincount().tolist() == [10] * 10
    assert data.source.endswith("; of these a stratified subset of 100 (seed 0)")


def test_half_a_split_is_missing_not_corrupt(tmp_path):
    raw = write_split(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.warns(DataFallbackWarning, match=r"missing: t10k-labels-idx1-ubyte\)"):
        load_images("mnist", "test", root=tmp_path)


def test_no_fallback_on_training_images_beside_the_training_split(tmp_path):
    write_split(tmp_path, split="train")
    with pytest.raises(ValueError, match="would test a model on what it was trained on. Put the"):
        load_images("mnist", "test", root=tmp_path)


def test_fallback_to_train_beside_the_test_split_is_fair(tmp_path):
    write_split(tmp_path, split="test")
    with pytest.warns(DataFallbackWarning):
        assert len(load_images("mnist", "train", root=tmp_path)) == 4000


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_the_others_have_no_fallback(tmp_path, name):
    with pytest.raises(ValueError, match="has no fallback. Put the files there") as caught:
        load_images(name, "test", root=tmp_path)
    message = str(caught.value)
    assert type(caught.value) is MissingDataError
    assert str(tmp_path / FOLDERS[name] / "raw") in message and "PROBML_TP_DATA" in message
    assert "no network in tests" in message


def test_download_can_be_declined(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "download_split", None)
    with pytest.raises(ValueError, match=r"\(missing: .*\), and download=False\. KMNIST has no"):
        load_images("kmnist", "test", root=tmp_path, download=False)
    with pytest.warns(DataFallbackWarning, match="download=False"):
        load_images("mnist", "test", root=tmp_path, download=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar", "test"), "name must be one of 'mnist', .*'letters'; got 'cifar'"),
        (("mnist", "valid"), "split must be one of 'train', 'test'; got 'valid'"),
    ],
)
def test_bad_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images(*arguments)


@pytest.mark.parametrize("name", IMAGE_DATASETS)
def test_bad_max_size_is_refused_before_any_work(tmp_path, name):
    with pytest.raises(ValueError, match="max_size must be an integer of at least 1; got 0"):
        load_images(name, "test", root=tmp_path, max_size=0)


# Downloads, from a server of the test's own


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without writing to the terminal."""

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve a folder in place of MNIST's mirrors; yields the folder."""
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "*")
    raw = write_split(tmp_path / "served", n=30, packed=True)
    handler = partial(QuietHandler, directory=raw)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        resources = [(path.name, md5(path.read_bytes()).hexdigest()) for path in raw.iterdir()]
        monkeypatch.setattr(tv.MNIST, "resources", resources)
        monkeypatch.setattr(tv.MNIST, "mirrors", [f"http://127.0.0.1:{http.server_port}/"])
        yield raw
        http.shutdown()
        thread.join()


@pytest.mark.usefixtures("strict")
def test_missing_files_are_downloaded_once(tmp_path, server):
    root = tmp_path / "new" / "root"
    data = load_images("mnist", "test", root=root)
    assert torch.equal(data.images, images_of(30).to(torch.uint8)) and not data.is_fallback
    names = {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}
    assert {path.name for path in (root / "MNIST" / "raw").iterdir()} == names
    shutil.rmtree(server)
    assert len(load_images("mnist", "test", root=root)) == 30


@pytest.mark.usefixtures("strict")
def test_only_what_is_missing_is_downloaded(tmp_path, server):
    raw = write_split(tmp_path / "root", n=30)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (server / "t10k-images-idx3-ubyte.gz").unlink()
    assert len(load_images("mnist", "test", root=tmp_path / "root")) == 30


@pytest.mark.usefixtures("strict")
def test_next_mirror_is_tried(tmp_path, server, monkeypatch):
    mirror = tv.MNIST.mirrors[0]
    monkeypatch.setattr(tv.MNIST, "mirrors", [f"{mirror}gone/", mirror])
    assert len(load_images("mnist", "test", root=tmp_path / "root")) == 30


def assert_falls_back_and_leaves_no_file(root, match):
    """MNIST falls back for the reason given, and no file is left under ``root``."""
    with pytest.warns(DataFallbackWarning, match=match):
        assert load_images("mnist", "test", root=root).is_fallback
    assert not [path for path in Path(root).rglob("*") if path.is_file() or "." in path.name]


def test_wrong_checksum_is_not_kept(tmp_path, server):
    (server / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    assert_falls_back_and_leaves_no_file(tmp_path / "root", "not found or corrupted")


def test_second_file_missing_leaves_not_even_the_first(tmp_path, server, monkeypatch):
    ordered = sorted(tv.MNIST.resources)
    monkeypatch.setattr(tv.MNIST, "resources", ordered)
    (server / "t10k-labels-idx1-ubyte.gz").unlink()
    assert_falls_back_and_leaves_no_file(tmp_path / "root", "HTTP Error 404")


def test_root_that_cannot_be_written_falls_back(tmp_path, server):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.warns(DataFallbackWarning, match="Not a directory"):
        assert load_images("mnist", "test", root=tmp_path / "file").is_fallback


def test_read_only_root_falls_back(tmp_path, server):
    root = tmp_path / "root"
    root.mkdir(mode=0o555)
    if os.access(root, os.W_OK):
        pytest.skip("this user may write to read-only folders")
    assert_falls_back_and_leaves_no_file(root, "Permission denied")


def test_silent_mirror_is_given_up_in_time(tmp_path, monkeypatch):
    """A resolver or a firewall that never answers must not hang the caller."""
    monkeypatch.undo()
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait(10)
        raise OSError("too late")

    monkeypatch.setattr(download_module, "TIMEOUT", 0.05)
    monkeypatch.setattr(download_module, "urlopen", hang)
    monkeypatch.setattr(tv.KMNIST, "mirrors", ["http://silent.invalid/"])
    with pytest.raises(ValueError, match=r"silent.invalid/: no answer within 0.05 s"):
        load_images("kmnist", "test", root=tmp_path)
    released.set()
    assert list(tmp_path.iterdir()) == []


def test_socket_timeout_is_restored(tmp_path, server):
    before = socket.getdefaulttimeout()
    load_images("mnist", "test", root=tmp_path / "root")
    assert socket.getdefaulttimeout() == before


# The real files


@pytest.mark.parametrize(
    ("name", "split", "size", "mean"),
    [
        ("mnist", "train", 60_000, 0.1307),
        ("mnist", "test", 10_000, 0.1325),
        ("fashion-mnist", "train", 60_000, 0.2860),
        ("fashion-mnist", "test", 10_000, 0.2868),
        ("kmnist", "test", 10_000, 0.1846),
    ],
)
def test_real_files(name, split, size, mean):
    root = Path(os.environ.get("PROBML_TP_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (root / FOLDERS[name] / "raw" / f"{PREFIXES[split]}-images-idx3-ubyte").is_file():
        pytest.skip(f"the real {name} files are not here: set PROBML_TP_DATA")
    data = load_images(name, split, root=root, download=False)
    assert len(data) == size and not data.is_fallback
    assert data.images.double().mean().item() / 255 == pytest.approx(mean, abs=5e-5)
    if split == "train":
        z = data.subset(6000).normalized()
        assert z.mean().item() == pytest.approx(0, abs=0.05)
        assert z.std().item() == pytest.approx(1, abs=0.05)
    if name != "mnist":
        assert data.labels.bincount().tolist() == [size // 10] * 10
