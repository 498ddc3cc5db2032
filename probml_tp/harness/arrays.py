"""The arrays of an experiment as one labelled data set, and back.

Studies name an array ``"<part>.<name>"``, the part mostly a guide. In the file they are variables
of one ``xarray.Dataset``: what several parts have in one shape is one variable over a dimension of
parts, so that ``dataset["probability"].sel(part="map")`` works; all else keeps its whole name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["arrays_as_netcdf", "as_netcdf", "from_dataset", "read_arrays", "to_dataset"]

Array = np.ndarray[Any, Any]
PART = "part"

WORTH_PACKING = 4096
"""Bytes from which on packing a variable saves more than the chunks of its file cost."""


def to_dataset(arrays: Mapping[str, Array]) -> xr.Dataset:
    """Put arrays into a data set.

    Args:
        arrays: name to array.

    Raises:
        ValueError: an array holds neither numbers nor texts.

    Returns:
        The data set; dimensions of parts are ``"part"``, ``"part_2"``, ... with the parts' names.

    Example:
        >>> maps = {"map.p": np.zeros((2, 2)), "nuts.p": np.ones((2, 2)), "x": np.zeros(3)}
        >>> made = to_dataset(maps)
        >>> made["p"].sel(part="nuts").values.tolist(), list(made)
        ([[1.0, 1.0], [1.0, 1.0]], ['p', 'x'])
    """
    kinds: dict[tuple[str, Any, Any], dict[str, Array]] = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise ValueError(
                f"arrays must be of numbers or texts; got {name} of {array.dtype}. Convert it."
            )
        part, dot, rest = name.partition(".")
        if dot:
            kinds.setdefault((rest, array.shape, array.dtype), {})[part] = array
    names = [rest for rest, *_ in kinds]
    stacked = {
        rest: parts
        for (rest, *_), parts in kinds.items()
        if len(parts) > 1 and names.count(rest) == 1 and rest not in arrays
    }
    places: dict[tuple[str, ...], str] = {}
    variables: dict[str, tuple[list[str], Array]] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        if rest not in stacked:
            variables[name] = (_dims(name, array.ndim), array)
        elif rest not in variables:
            parts = stacked[rest]
            count = len(places)
            place = places.setdefault(tuple(parts), f"{PART}_{count + 1}" if count else PART)
            variables[rest] = ([place, *_dims(rest, array.ndim)], np.stack(list(parts.values())))
    coords = {place: list(parts) for parts, place in places.items()}
    return xr.Dataset(variables, coords=coords)


def _dims(name: str, ndim: int) -> list[str]:
    return [f"{name}_{axis}" for axis in range(ndim)]


def from_dataset(dataset: xr.Dataset) -> dict[str, Array]:
    """The arrays of a data set under the names that studies give them.

    Args:
        dataset: of :func:`to_dataset`.

    Returns:
        Name to array.

    Example:
        >>> sorted(from_dataset(to_dataset({"a.x": np.zeros(2), "b.x": np.ones(2)})))
        ['a.x', 'b.x']
    """
    arrays: dict[str, Array] = {}
    for name, variable in dataset.data_vars.items():
        values = variable.values
        if values.dtype.kind == "O":  # texts, as netCDF has them
            values = values.astype(str)
        first = str(variable.dims[0]) if variable.dims else ""
        if first in dataset.coords:
            parts = [str(part) for part in dataset.coords[first].values]
            arrays |= {f"{part}.{name}": values[place] for place, part in enumerate(parts)}
        else:
            arrays[str(name)] = values
    return arrays


def as_netcdf(tree: xr.DataTree) -> bytes:
    """A tree as a netCDF file in memory: on a full disk HDF5 may end the process."""
    content = io.BytesIO()
    packed = {
        group.path: {
            name: {"zlib": True}
            for name, v in group.variables.items()
            if v.dtype.kind in "iuf" and v.nbytes > WORTH_PACKING
        }
        for group in tree.subtree
    }
    tree.to_netcdf(content, engine="h5netcdf", encoding=packed)
    return content.getvalue()


def arrays_as_netcdf(arrays: Mapping[str, Array]) -> bytes:
    """The arrays of an experiment as a netCDF file in memory."""
    return as_netcdf(xr.DataTree(to_dataset(arrays)))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read what :func:`arrays_as_netcdf` made.

    Args:
        path: the file.

    Returns:
        Name to array.
    """
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return from_dataset(dataset.load())
