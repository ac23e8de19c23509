"""The version of the format: the least that describes a store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.storage import SplitPlan, open_store
from compress_ssl.storage.errors import StoreVersionError
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.tools.hdf5 import export_hdf5, import_hdf5
from compress_ssl.storage.version import check_version
from compress_ssl.storage.writer import create_store
from tests.storage.conftest import ATTRIBUTES, patch_plan_of, plan_of

POLICY = {"name": "evaluation", "resize": 8}
PLAIN = replace(plan_of(), columns=COLUMNS, views=[{"policy": POLICY, "seed": None, "size": 8}])

OF_VERSION_1: dict[str, tuple[dict[str, Any], SplitPlan]] = {
    "plain": (ATTRIBUTES, PLAIN),
    "columns of a test": (ATTRIBUTES, plan_of()),
    "no policy": ({}, replace(PLAIN, views=[{"size": 8}])),
    "not squashed": (ATTRIBUTES, replace(PLAIN, views=[{"policy": {**POLICY, "squash": False}, "size": 8}])),
}
OF_VERSION_2: dict[str, tuple[dict[str, Any], SplitPlan]] = {
    "patches": (ATTRIBUTES, replace(PLAIN, patches=patch_plan_of((0,)))),
    "more columns": (ATTRIBUTES, replace(PLAIN, columns=(*COLUMNS, "mix_row"))),
    "squashed": (ATTRIBUTES, replace(PLAIN, views=[{"policy": {**POLICY, "squash": True}, "size": 8}])),
    "a pool": ({**ATTRIBUTES, "teacher": {"name": "a", "pool": "token"}}, PLAIN),
}


@pytest.mark.parametrize("name", [*OF_VERSION_1, *OF_VERSION_2])
def test_store_has_the_least_version_that_describes_it(tmp_path: Path, name: str) -> None:
    attributes, plan = (OF_VERSION_1 | OF_VERSION_2)[name]
    create_store(tmp_path / "store.zarr", attributes, {"train": plan, "val": PLAIN})
    wanted = 1 if name in OF_VERSION_1 else 2
    assert json.loads((tmp_path / "store.zarr/zarr.json").read_text())["attributes"]["version"] == wanted
    assert open_store(tmp_path / "store.zarr").attributes["version"] == wanted


@pytest.mark.parametrize("version", [0, 3, "2", None, [1], 1.5])
def test_other_versions_are_refused_with_what_to_do(version: object) -> None:
    with pytest.raises(
        StoreVersionError, match=r"'it' has format version .* reads versions 1 and 2; .*, or embed again"
    ):
        check_version("it", version, "embed again")


def test_hdf5_file_keeps_the_version(patched: Path, complete: Path, tmp_path: Path) -> None:
    for store, version in ((complete, 1), (patched, 2)):
        export_hdf5(open_store(store), tmp_path / f"{version}.h5", lambda amount: None)
        import_hdf5(tmp_path / f"{version}.h5", tmp_path / f"{version}.zarr", lambda amount: None)
        assert open_store(tmp_path / f"{version}.zarr").attributes["version"] == version
