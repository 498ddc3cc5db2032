"""Arrays of studies as one labelled data set: there and back without a change."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from probml_tp.harness.arrays import arrays_as_netcdf, from_dataset, read_arrays, to_dataset

RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.normal(size=(5, 2)),
    "map.p": RNG.normal(size=(3, 4)).astype(np.float32),
    "nuts.p": RNG.normal(size=(3, 4)).astype(np.float32),
    "map.correct": RNG.random(7) > 0.5,
    "nuts.correct": RNG.random(7) > 0.5,
    "only.here": np.arange(4),
    "map.ragged": np.arange(3),
    "nuts.ragged": np.arange(5),
    "map.x": np.zeros(2),
    "nuts.x": np.ones(2),
    "laplace.part": np.array(["a", "β"]),
    "labels": np.array(["one", "three"]),
    "title": np.array("A title"),
    "nan": np.array([np.nan, np.inf, 1.0]),
    "bytes": np.arange(6, dtype=np.uint8),
    "a.deep.p": np.zeros(2),
    "b.deep.p": np.ones(2),
    "empty": np.zeros((0, 3)),
}


def assert_same(found):
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].shape == array.shape
        assert found[name].dtype.kind == array.dtype.kind
        if array.dtype.kind != "U":
            assert found[name].dtype == array.dtype, name


def test_they_come_back_as_they_were(tmp_path):
    assert_same(from_dataset(to_dataset(ARRAYS)))
    (tmp_path / "arrays.nc").write_bytes(arrays_as_netcdf(ARRAYS))
    assert_same(read_arrays(tmp_path / "arrays.nc"))


def test_what_several_parts_have_in_one_shape_is_one_variable_over_them(tmp_path):
    (tmp_path / "arrays.nc").write_bytes(arrays_as_netcdf(ARRAYS))
    with xr.open_dataset(tmp_path / "arrays.nc") as dataset:
        np.testing.assert_array_equal(dataset["p"].sel(part="nuts"), ARRAYS["nuts.p"])
        assert dataset["deep.p"].dims[0] == "part_2"
        assert {"map.ragged", "nuts.ragged", "map.x", "only.here"} <= set(dataset)


@pytest.mark.parametrize("array", [np.array([None]), np.array([1j]), np.array(["2020"], "M8[Y]")])
def test_what_is_neither_number_nor_text_is_refused(array):
    with pytest.raises(ValueError, match=r"of numbers or texts; got a of .*\. Convert it"):
        to_dataset({"a": array})
