"""Malicious packs: edited ones are refused before another file is read, memory allocated or a filter loaded."""

import resource
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.pack_writer import pack
from compress_ssl.pipeline.images.sources.open_source import open_source

HUGE = 10**12
ZSTANDARD = 32015
"""A filter that HDF5 loads from a folder of plug-ins: code of somebody's."""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A pack of two images in ``train`` and two in ``deep/val``."""
    for split in ("train", "deep/val"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            (tmp_path / "data" / split / name / "1.jpg").write_bytes(f"{split} {name}".encode())
    file = tmp_path / "pack.h5"
    pack(PackSettings(data=tmp_path / "data", file=file, split=("train", "deep/val")), Silent())
    return file


def outside(group: h5py.Group, name: str) -> Path:
    """Move a dataset into another file."""
    other = Path(group.file.filename).with_name("other.h5")
    with h5py.File(other, "a") as file:
        group.copy(name, file)
    del group[name]
    return other


def external_link(group: h5py.Group, name: str) -> None:
    other = outside(group, name)
    group[name] = h5py.ExternalLink(str(other), f"/{name}")


def soft_link(group: h5py.Group, name: str) -> None:
    group.move(name, f"{name}-other")
    group[name] = h5py.SoftLink(f"{group.name}/{name}-other")


def external_storage(group: h5py.Group, name: str) -> None:
    content = group[name][:]
    del group[name]
    raw = Path(group.file.filename).with_name(f"{name}.raw")
    raw.write_bytes(content.tobytes())
    group.create_dataset(name, content.shape, content.dtype, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def virtual(group: h5py.Group, name: str) -> None:
    dtype, shape = group[name].dtype, group[name].shape
    other = outside(group, name)
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(other), name, shape)
    group.create_virtual_dataset(name, layout)


def huge(group: h5py.Group, name: str) -> None:
    dtype = group[name].dtype
    del group[name]
    group.create_dataset(name, (HUGE,), dtype, chunks=(1024,))


def compressed(group: h5py.Group, name: str) -> None:
    content = group[name][:]
    del group[name]
    group.create_dataset(name, data=content, chunks=content.shape, compression="gzip")


def filtered(group: h5py.Group, name: str) -> None:
    """Name a filter that is not there; written by hand, as h5py checks that it is."""
    content = group[name][:]
    del group[name]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(content.shape)
    plan.set_filter(ZSTANDARD, h5py.h5z.FLAG_OPTIONAL)
    made = h5py.h5d.create(
        group.id, name.encode(), h5py.h5t.py_create(content.dtype), h5py.h5s.create_simple(content.shape), plan
    )
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(content))


def objects(group: h5py.Group, name: str) -> None:
    count = len(group[name])
    del group[name]
    group.create_dataset(name, data=[f"{number}.jpg" for number in range(count)], dtype=h5py.string_dtype())


def two_dimensions(group: h5py.Group, name: str) -> None:
    content = group[name][:]
    del group[name]
    group[name] = np.stack([content, content])


ATTACKS = [external_link, soft_link, external_storage, virtual, huge, compressed, filtered, objects, two_dimensions]


@pytest.mark.parametrize("attack", ATTACKS)
def test_data_set_kept_otherwise_than_in_a_pack_is_refused(
    packed: Path, attack: Callable[[h5py.Group, str], None]
) -> None:
    content = packed.read_bytes()
    for name in ("data", "offset", "path", "label", "content_hash", "class_name"):
        packed.write_bytes(content)
        packed.with_name("other.h5").unlink(missing_ok=True)
        with h5py.File(packed, "r+") as file:
            attack(file["train"], name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InputError, match=r"Split 'train' of the pack '.*pack\.h5' is damaged"):
            open_source(packed, "train").listing()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, name  # KiB


@pytest.mark.parametrize("split", ["train", "deep/val"])
def test_split_that_is_a_link_to_another_file_is_not_followed(packed: Path, split: str) -> None:
    other = packed.with_name("other.h5")
    other.write_bytes(packed.read_bytes())
    with h5py.File(packed, "r+") as file:
        first = split.split("/")[0]
        del file[first]
        file[first] = h5py.ExternalLink(str(other), f"/{first}")
    with pytest.raises(InputError, match=rf"has no split '{split}'"):
        open_source(packed, split)


def test_path_that_leads_out_is_refused(packed: Path) -> None:
    for name in (b"../../b.jpg", b"/etc/b.jpg", b"C:\\b.jpg", b"a/../../b.jpg"):
        with h5py.File(packed, "r+") as file:
            del file["train/path"]
            file["train/path"] = np.array([b"a/1.jpg", name], h5py.string_dtype("utf-8", 20))
        with pytest.raises(InputError, match=r"pack\.h5' names '.*', which leads out of its folder"):
            open_source(packed, "train").listing()


def test_images_outside_of_the_file_are_refused(packed: Path) -> None:
    for offset in ([0, 7, 2**63 - 1], [-7, 0, 7], [0, 2**62, 2**62 + 1], [5, 5, 5]):
        with h5py.File(packed, "r+") as file:
            file["train/offset"][:] = offset
        with pytest.raises(InputError, match="is damaged"):
            open_source(packed, "train").listing()


def test_names_and_labels_that_could_be_taken_for_others_are_refused(packed: Path) -> None:
    text = h5py.string_dtype("utf-8", 20)
    for name, values in [
        ("path", np.array([b"a/1.jpg", b"a/1.jpg"], text)),
        ("class_name", np.array([b"a", b"a"], text)),
        ("label", np.array([0, 2], np.int32)),
        ("label", np.array([0, -2], np.int32)),
    ]:
        with h5py.File(packed, "r+") as file:
            before = file["train"][name][:]
            del file["train"][name]
            file["train"][name] = values
        with pytest.raises(InputError, match="is damaged"):
            open_source(packed, "train").listing()
        with h5py.File(packed, "r+") as file:
            del file["train"][name]
            file["train"][name] = before
    assert open_source(packed, "train").listing().labels.tolist() == [0, 1]


def test_untouched_pack_is_read(packed: Path) -> None:
    for split in ("train", "deep/val"):
        source = open_source(packed, split)
        assert [source.read(path) for path in source.listing().paths] == [f"{split} a".encode(), f"{split} b".encode()]
