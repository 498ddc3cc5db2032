"""Damaged files: every kind that the package reads, every kind of damage."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import pickle
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import demo_experiment as demo
import torch

from attacks.outcomes import Tally, in_children, judged
from attacks.subjects import CHECKPOINTED, fit_part, interrupted, regressor, resumed, state_of
from probml_tp import Posterior, scores
from probml_tp.datasets import load_images
from probml_tp.harness.report import build_report
from probml_tp.harness.results import read_results, write_results

__all__ = ["fuzz"]

Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: in the table.
        files: the whole ones, path to content.
        damaged: the one that is damaged.
        read: reads a folder that holds them, and returns what is in it.
        is_text: whether people edit it: then damage breaks its structure, types or numbers. (An
            edit to another valid number is an edit.)
        head: damage within so many bytes only, where the rest is data without a checksum.
    """

    name: str
    files: Files
    damaged: str
    read: Callable[[Path], str]
    is_text: bool = False
    head: int | None = None


def fuzz(count: int, random: Random, folder: Path) -> Iterator[Tally]:
    """Damage each kind of file so many times."""
    kinds = [*_tensor_files(folder), *_results(folder), *_images(folder)]
    swaps = [kind.files[kind.damaged] for kind in kinds]
    for kind in kinds:
        _write(folder / "whole", kind.files)
        whole = kind.read(folder / "whole")
        edits = _text_damage if kind.is_text else _damage
        tries = [edits(kind.files[kind.damaged], random, swaps, kind.head) for _ in range(count)]

        def judge(one: tuple[str, bytes], kind: Kind = kind, whole: str = whole) -> str:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _write(Path(place), kind.files | {kind.damaged: one[1]})
                return judged(lambda: kind.read(Path(place)), whole)

        tally = Tally(f"damaged: {kind.name}")
        for (damage, _), outcome in zip(tries, in_children(tries, judge), strict=True):
            tally.add(f"{kind.name}, {damage}", outcome)
        yield tally
    yield _pickles(kinds, folder)


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# ----------------------------------------------------------------------------------------- damage


def _damage(
    whole: bytes, random: Random, swaps: list[bytes], head: int | None
) -> tuple[str, bytes]:
    """One damage of a binary file with its name."""
    size = min(head or len(whole), len(whole))
    kind = random.choice(("bits", "bits", "cut", "zeros", "NaN", "longer", "swapped", "noise"))
    content = bytearray(whole)
    place = random.randrange(size)
    if kind == "bits":
        for _ in range(random.choice((1, 1, 2, 8))):
            content[random.randrange(size)] ^= 1 << random.randrange(8)
    elif kind == "cut":
        return kind, whole[: random.randrange(len(whole))]
    elif kind == "zeros":
        length = min(random.choice((1, 8, 64, size)), size - place)
        content[place : place + length] = bytes(length)
    elif kind == "NaN":
        content[place - place % 8 : place - place % 8 + 8] = struct.pack("<d", math.nan)
    elif kind == "longer" and head is None:
        content += random.randbytes(random.choice((1, 8, 1000)))
    elif kind == "swapped":
        return kind, random.choice([swap for swap in swaps if swap != whole])
    else:
        content[place:size] = random.randbytes(size - place)
    return kind, bytes(content)


NO_JSON = ("NaN", "Infinity", "[" * 5000)
"""What no valid file holds, whatever its meaning."""
VALUES = ("NaN", "Infinity", "-1e999", '"text"', "null", "[]", "{}", "[" * 5000, "9" * 5000)


def _text_damage(
    whole: bytes, random: Random, swaps: list[bytes], _: int | None
) -> tuple[str, bytes]:
    """One damage of a JSON file with its name."""
    kind = random.choice(("cut", "zeros", "swapped", "value", "value", "value"))
    text = whole.decode()
    place = random.randrange(len(whole))
    if kind == "cut":
        return kind, whole[: random.randrange(len(whole) - 2)]
    if kind == "zeros":
        return kind, whole[:place] + bytes(8) + whole[place + 8 :]
    if kind == "swapped":
        return kind, random.choice([swap for swap in swaps if swap != whole])
    found = random.choice(list(re.finditer(r"(?<=: )(-?[\d.e-]+|true|false|null)(?=,|\n)", text)))
    value = random.choice(VALUES)
    if found[1] in ("true", "false", "null"):
        value = random.choice(NO_JSON)
    name = f"{found[0]} to {value[:9]} at {found.start()}"
    return name, (text[: found.start()] + value + text[found.end() :]).encode()


# ------------------------------------------------------------------------------------------ kinds


def _tensor_files(folder: Path) -> Iterator[Kind]:
    model = regressor()
    saved = fit_part(model).save(folder / "posterior").read_bytes()

    def load(place: Path) -> str:
        posterior = Posterior.load(place / "p.safetensors", model)
        return state_of(posterior) + str(posterior.seed) + json.dumps(asdict(posterior.info))

    yield Kind("posteriors (.safetensors)", {"p.safetensors": saved}, "p.safetensors", load)
    for name in CHECKPOINTED:
        checkpoint = interrupted(name, folder / f"{name}.ckpt").read_bytes()
        yield Kind(
            f"checkpoints ({name})",
            {"c.ckpt": checkpoint},
            "c.ckpt",
            lambda place, name=name: resumed(name, place / "c.ckpt"),
        )
    yield _confidnet(folder)


def _confidnet(folder: Path) -> Kind:
    from valid_calls import World

    world = World(folder)

    def load(place: Path) -> str:
        net = scores.ConfidNet.load(place / "n.safetensors", world.classifier)
        return _digest(net.estimate(world.point_run).numpy().tobytes())

    content = world.confidnet_file.read_bytes()
    return Kind("ConfidNets (.safetensors)", {"n.safetensors": content}, "n.safetensors", load)


def _results(folder: Path) -> Iterator[Kind]:
    results = demo.EXPERIMENT.run(demo.Config(), _quiet())
    place = write_results(results, demo.EXPERIMENT, folder / "results")
    files = {
        f"demo/{path.relative_to(place)}": path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }
    for name in ("manifest", "metrics"):
        path = f"demo/{name}.json"
        yield Kind(f"results ({name}.json)", files, path, _read_results, is_text=True)
    yield Kind("results (arrays.nc)", files, "demo/arrays.nc", _read_results)


def _read_results(place: Path) -> str:
    saved = read_results(place / "demo", arrays=True)
    arrays = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in saved.arrays.items()}
    build_report(place)
    shown = repr(saved).replace(str(place), "")
    return _digest(shown.encode(), repr(sorted(arrays.items())).encode())


def _quiet() -> object:
    from probml_tp.harness.experiment import NullProgress

    return NullProgress()


def _images(folder: Path) -> Iterator[Kind]:
    raw = "MNIST/raw/train-{}-ubyte"
    images = struct.pack(">iiii", 2051, 20, 28, 28) + bytes(range(256)) * 61 + bytes(64)
    labels = struct.pack(">ii", 2049, 20) + bytes(i % 10 for i in range(20))
    files = {raw.format("images-idx3"): images, raw.format("labels-idx1"): labels}
    yield Kind("images (IDX, its head)", files, raw.format("images-idx3"), _read_images, head=16)
    yield Kind("labels (IDX, its head)", files, raw.format("labels-idx1"), _read_images, head=8)
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    yield Kind("images (IDX, gzipped)", packed, raw.format("images-idx3") + ".gz", _read_images)


def _read_images(place: Path) -> str:
    data = load_images("mnist", "train", root=place, download=False)
    return _digest(data.images.numpy().tobytes(), data.labels.numpy().tobytes()) + str(
        data.images.shape
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()


# ---------------------------------------------------------------------------------------- pickles


class _Payload:
    """What runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def _pickles(kinds: list[Kind], folder: Path) -> Tally:
    """Pickles that run code, under the name of each kind of file."""
    marker = folder / "executed"
    plain = pickle.dumps(_Payload(marker))
    torch.save({"format": _Payload(marker)}, folder / "payload.pt")
    tries = [
        (k, content) for k in kinds for content in (plain, (folder / "payload.pt").read_bytes())
    ]

    def judge(one: tuple[Kind, bytes]) -> str:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            _write(Path(place), one[0].files | {one[0].damaged: one[1]})
            outcome = judged(lambda: one[0].read(Path(place)))
        return "silent: the pickle was executed" if marker.exists() else outcome

    tally = Tally("pickles that run code")
    for (kind, _), outcome in zip(tries, in_children(tries, judge), strict=True):
        tally.add(kind.name, outcome)
    return tally
