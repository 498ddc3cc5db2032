"""Saved tensors: any changed bit is seen, what is not finite is not saved, a full disk is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from guide_cases import build
from model_cases import CASES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from probml_tp import Posterior
from probml_tp.storage.tensor_files import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])}


def saved(path: Path) -> Path:
    write_tensors(path, TENSORS, {"format": "f 1", "note": "näive"})
    return path


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    return read_tensors(path, "posterior", form="f 1")


def test_tensors_and_header_survive(tmp_path: Path) -> None:
    header, tensors = read(saved(tmp_path / "t.safetensors"))
    assert header["note"] == "näive"
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.safetensors")
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a saved posterior must .*t\.safetensors.*"):
            read(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a": TENSORS["a"] + 1}, "tensor a does not agree with its digest"),
        ({"a": TENSORS["a"].reshape(3, 2)}, "tensor a does not agree"),
        ({"a": TENSORS["a"].double()}, "tensor a does not agree"),
        ({"a": torch.full((2, 3), torch.nan)}, "tensor a does not agree"),
        ({"c": torch.zeros(1)}, r"its tensors are \['a', 'b', 'c'\]"),
    ],
)
def test_other_tensors_under_the_same_header_are_refused(
    change: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "t.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(TENSORS | change, path, header)
    with pytest.raises(ValueError, match=rf"damaged \({reason}.*Restore a good copy"):
        read(path)


@pytest.mark.parametrize("change", [{"note": "naive"}, {"more": "1"}, {"digest": "0"}])
def test_another_header_is_refused(change: dict[str, str], tmp_path: Path) -> None:
    path = saved(tmp_path / "t.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata() | change
    save_file(load_file(path), path, header)
    with pytest.raises(ValueError, match="its header does not agree with its digest"):
        read(path)


def test_what_is_not_finite_is_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"a": torch.tensor([1.0, torch.inf])}
    path = tmp_path / "t.safetensors"
    with pytest.raises(ValueError, match=r"must be finite; a has NaN or infinite"):
        write_tensors(path, bad, {"format": "f 1"})
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr("probml_tp.storage.tensor_files._not_finite", lambda tensors: None)
        write_tensors(path, bad, {"format": "f 1"})
    with pytest.raises(ValueError, match="tensor a has NaN or infinite entries"):
        read(path)


def test_a_posterior_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    guide, _ = build("mean-field", "mlp")
    path = Posterior(guide).save(tmp_path / "p")
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    for place in (size, size + 7, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"p\.safetensors is damaged \(tensor l"):
            Posterior.load(path, CASES["mlp"]().model)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["digests"]).keys() == guide.state_dict().keys()


def test_a_full_disk_is_named_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "t.safetensors")
    kept = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"t\.safetensors could not be \(No space.*Make room"):
        saved(path)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]
