"""Other readers open a store with nothing of ours: zarr, xarray and dask, in a Python that has not imported us."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import open_store

ROOT = Path(__file__).parents[2]

# The repository may be on the path by an editable install; no finder may lead to it.
WITHOUT_US = f"""
import json, sys
sys.path[:] = [entry for entry in sys.path if entry not in ("", {str(ROOT)!r})]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
store = sys.argv[1]
"""
AND_PROVE_IT = f"""
assert not {{name for name in sys.modules if name.startswith("compress_ssl")}}, "our package was imported"
assert not any(str(getattr(module, "__file__", "")).startswith({str(ROOT / "storage")!r})
               for module in list(sys.modules.values()))
print(json.dumps(found))
"""

ZARR = """
import zarr
train = zarr.open_group(store, mode="r")["train"]
found = {
    "embeddings": train["embeddings"][2].astype("f8")[8:].tolist(),
    "augmentation": train["augmentation"][2].tolist(),
    "paths": [str(path) for path in train["sample_path"][:]],
    "hashes": [int(value) for value in train["content_hash"][:]],
    "columns": train["augmentation"].attrs["columns"],
    "arrays": sorted(name for name, _ in train.arrays()),
    "groups": sorted(name for name, _ in zarr.open_group(store, mode="r").groups()),
}
"""
XARRAY = """
import xarray
train = xarray.open_zarr(store, group="train")
found = {
    "embeddings": train["embeddings"].sel(view=2).values.astype("f8")[8:].tolist(),
    "augmentation": train["augmentation"].isel(view=2).values.tolist(),
    "paths": [str(path) for path in train["sample_path"].values],
    "sizes": dict(train.sizes),
    "bad": int((train["status"] == 1).sum()),
    "folder": train.attrs["folder"],
}
"""
DASK = """
import dask.array
array = dask.array.from_zarr(store, component="train/embeddings")
found = {
    "embeddings": array[2, 8:].astype("f8").compute(scheduler="single-threaded").tolist(),
    "chunks": [list(sizes) for sizes in array.chunks],
    "shape": list(array.shape),
}
"""

FOUND = """
found = {
    "embeddings": np.asarray(embeddings).tolist(),
    "channels": np.asarray(channels)[:7].tolist(),
}
"""


def documented(name: str) -> str:
    """The code that docs/store-format.md shows for a reader without this package."""
    section = (ROOT / "docs/store-format.md").read_text().split("## Reading a store without this package")[1]
    code = {
        name: code
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        for name in ("zarr", "xarray")
        if f"import {name}" in code
    }
    return f"import numpy as np\n{code[name]}".replace('"teacher.zarr"', "store") + FOUND


Read = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def read(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Run a program that looks at a store and fills ``found``; every warning is an error. Runs once a program."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    @functools.cache
    def run(program: str, name: str) -> dict[str, Any]:
        code = WITHOUT_US + program + AND_PROVE_IT
        command = [sys.executable, "-I", "-W", "error", "-c", code, str(made / name)]
        answer = subprocess.run(command, check=False, cwd=elsewhere, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr == ""
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    return run


@pytest.mark.parametrize("program", [ZARR, XARRAY, DASK], ids=["zarr", "xarray", "dask"])
def test_embeddings_are_read_by(read: Read, values: Callable[..., Any], program: str) -> None:
    assert read(program, "complete.zarr")["embeddings"] == values(2, slice(0, 22))[8:].tolist()


def test_zarr_sees_the_arrays_of_a_split_and_nothing_else(read: Read, parameters: Callable[..., Any]) -> None:
    found = read(ZARR, "complete.zarr")
    assert found["groups"] == ["train", "val"]
    assert found["arrays"] == [
        "augmentation",
        "content_hash",
        "embeddings",
        "image_size",
        "label",
        "sample_path",
        "status",
    ]
    assert found["columns"] == ["row", "column"]
    assert found["augmentation"] == parameters(2, slice(0, 22)).tolist()
    assert found["paths"] == [f"{'ab'[row % 2]}/{row:02d}.jpg" for row in range(22)]
    assert found["hashes"] == [2**63 + row for row in range(22)]


def test_xarray_sees_named_dimensions(read: Read) -> None:
    found = read(XARRAY, "complete.zarr")
    assert found["sizes"] == {"view": 3, "sample": 22, "feature": 4, "parameter": 2, "side": 2}
    assert found["bad"] == 1
    assert found["folder"] == "images"
    assert found["paths"][21] == "b/21.jpg"


def test_dask_takes_a_block_a_task(read: Read) -> None:
    found = read(DASK, "complete.zarr")
    assert found["shape"] == [3, 22, 4]
    assert found["chunks"] == [[1, 1, 1], [5, 5, 5, 5, 2], [4]]


def test_incomplete_store_is_open_to_zarr_and_lacks_only_its_rows(read: Read) -> None:
    found = read(ZARR, "empty.zarr")
    assert np.isnan(found["embeddings"]).all()
    assert found["paths"][3] == "b/03.jpg"


@pytest.mark.parametrize("name", ["zarr", "xarray"])
def test_documented_code_reads_embeddings_and_patches(
    read: Read, made: Path, values: Callable[..., Any], name: str
) -> None:
    found = read(documented(name), "patched.zarr")
    good = np.arange(22) != 7
    embeddings = np.array(found["embeddings"])
    np.testing.assert_array_equal(embeddings if name == "zarr" else embeddings[good], values(0, slice(0, 22))[good])
    train = open_store(made / "patched.zarr")["train"]
    (codes, scale), (mean, basis) = train.patch_view(0), train.patch_basis
    wanted = np.empty((7, 4, 6))
    for row, position, channel in np.ndindex(*wanted.shape):
        terms = [
            int(codes[row, position, k]) * float(scale[row, position]) * float(basis[k, channel]) for k in range(3)
        ]
        wanted[row, position, channel] = float(mean[channel]) + sum(terms)
    np.testing.assert_allclose(np.array(found["channels"]), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["zarr", "xarray"])
def test_patches_of_a_bad_image_and_of_a_view_without_some_are_not_numbers(read: Read, name: str) -> None:
    opened = {
        "zarr": 'import zarr\ntrain = zarr.open_group(store, mode="r")["train"]\nscale = train["patch_scale"][:]\n',
        "xarray": 'import xarray\nscale = xarray.open_zarr(store, group="train")["patch_scale"].values\n',
    }
    found = read(opened[name] + 'found = {"scale": scale.astype("f8").tolist()}', "patched.zarr")
    scale = np.array(found["scale"])
    assert np.isnan(scale[1]).all()
    assert np.flatnonzero(np.isnan(scale[0]).any(axis=1)).tolist() == [7]


def test_metadata_are_consolidated_once_the_store_is_complete(complete: Path) -> None:
    consolidated = json.loads((complete / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    for name, kept in consolidated.items():
        on_disk = json.loads((complete / name / "zarr.json").read_text())
        assert kept["attributes"] == on_disk["attributes"]
        assert kept.get("shape") == on_disk.get("shape")
    assert len(consolidated) == 2 * (1 + 7)
