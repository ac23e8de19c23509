"""A pack: what is in the file, what is said of a bad one, and what a million images cost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.pack_writer import BATCH_BYTES, pack
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage.errors import DiskSpaceError, StoreBusyError

FILES = {
    "train/a/1.jpg": b"one",
    "train/a/ü\u2028 2.png": b"\x00two\x00",
    "train/b/empty.jpg": b"",
    "train/b/3.jpg": bytes(range(256)) * 5,
    "val/a/1.jpg": b"five",
    "val/b/1.jpg": b"six",
    "flat/1.jpg": b"seven",
    "flat/deep.txt": b"no image",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nothing here is decoded, so anything may be in the files."""
    for name, content in FILES.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "data"


def packed(data: Path, *splits: str, **settings: object) -> Path:
    given = {"data": data, "file": data.parent / "new" / "p.h5", "split": splits or ("train", "val")}
    chosen = PackSettings.model_validate(given | settings)
    pack(chosen, Silent())
    return chosen.file


def test_any_hdf5_reader_finds_the_images(data: Path) -> None:
    with h5py.File(packed(data)) as file:
        assert (file.attrs["format"], file.attrs["version"]) == ("compress-ssl-images", 1)
        assert sorted(file) == ["train", "val"]
        group = file["train"]
        assert group["path"].asstr()[:].tolist() == ["a/1.jpg", "a/ü\u2028 2.png", "b/3.jpg", "b/empty.jpg"]
        assert group["class_name"].asstr()[:].tolist() == ["a", "b"]
        assert group["label"][:].tolist() == [0, 0, 1, 1]
        offset, everything = group["offset"][:], group["data"]
        assert (offset.dtype, everything.dtype, everything.chunks) == (np.int64, np.uint8, None)
        for row, path in enumerate(group["path"].asstr()[:]):
            content = everything[offset[row] : offset[row + 1]].tobytes()
            assert content == FILES[f"train/{path}"]
            assert group["content_hash"][row] == xxhash.xxh3_64_intdigest(content)


@pytest.mark.parametrize("splits", [("train", "val", "flat"), ("train/a",), (".",)])
def test_each_split_reads_like_its_folder(data: Path, splits: tuple[str, ...]) -> None:
    shutil.rmtree(data / "flat") if splits == (".",) else None
    file = packed(data, *splits)
    for split in splits:
        ours, theirs = open_source(file, split), FolderSource(data / split)
        assert ours.listing().paths == theirs.listing().paths
        assert ours.listing().labels.tolist() == theirs.listing().labels.tolist()
        assert ours.listing().class_names == theirs.listing().class_names
        for path in ours.listing().paths:
            assert ours.read(path) == theirs.read(path)
            assert ours.stamp(path)[0] == theirs.stamp(path)[0]


def test_a_pack_of_a_pack_is_the_same(data: Path, tmp_path: Path) -> None:
    first = packed(data)
    again = packed(first, file=tmp_path / "again.h5")
    assert again.read_bytes() == first.read_bytes()


def test_a_pack_is_not_packed_into_itself_nor_over_another_file(data: Path, tmp_path: Path) -> None:
    first = packed(data)
    before = first.read_bytes()
    with pytest.raises(InputError, match=r"p\.h5' cannot be packed into itself"):
        packed(first, "val", file=first, overwrite=True)
    assert first.read_bytes() == before
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match=r"thesis\.txt' is not a pack, and stays"):
        packed(data, file=tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_labels_go_into_the_pack(data: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1 seven\n")
    listing = open_source(packed(data, "train", "flat", labels=tmp_path / "labels.txt"), "flat").listing()
    assert (listing.labels.tolist(), listing.class_names) == ([0], ("seven",))


def test_more_than_one_batch_is_packed_in_order(data: Path) -> None:
    generator = np.random.default_rng(0)
    for number, size in enumerate((BATCH_BYTES + 5, 10, BATCH_BYTES - 10, 1, BATCH_BYTES, 7)):
        (data / "train" / "b" / f"big {number}.jpg").write_bytes(generator.bytes(size))
    ours, theirs = open_source(packed(data, "train"), "train"), FolderSource(data / "train")
    for path in theirs.listing().paths:
        assert ours.read(path) == theirs.read(path)


def test_a_pack_cut_short_anywhere_is_named(data: Path) -> None:
    file = packed(data)
    content = file.read_bytes()
    for size in [0, 1, 7, 8, 50, 95, *range(96, len(content), 97), len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(
            InputError, match=r"'.*p\.h5' is (cut short or damaged; copy it again, or pack|neither a folder nor a pack)"
        ):
            open_source(file, "train")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.attrs.pop("format"), r"The HDF5 file '.*p\.h5' is not a pack; make one with"),
        (lambda file: file.attrs.update(version=2), r"'.*p\.h5' has format version 2, this release reads 1"),
        (lambda file: file.pop("train"), r"The pack '.*p\.h5' has no split 'train'; it has val\."),
        (lambda file: file["train"].pop("label"), r"has no split 'train'; it has val"),
    ],
)
def test_what_is_no_pack_or_has_no_such_split_is_named(
    data: Path, change: Callable[[h5py.File], None], sentence: str
) -> None:
    path = packed(data)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=sentence):
        open_source(path, "train")


def replace(group: h5py.Group, name: str, value: object, **options: object) -> None:
    del group[name]
    group.create_dataset(name, data=value, **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda group: replace(group, "offset", np.array([0, 3, 2, 5, 6])),
        lambda group: replace(group, "offset", np.array([0, 3])),
        lambda group: replace(group, "offset", np.array([0, 3, 8, 9, 2**50])),
        lambda group: replace(group, "label", np.zeros(3, np.int32)),
        lambda group: replace(group, "path", np.arange(4)),
        lambda group: replace(group, "path", np.array([b"\xff"] * 4, h5py.string_dtype("utf-8", 1))),
        lambda group: replace(group, "data", np.zeros(1288, np.uint8), chunks=(8,)),
    ],
)
def test_lists_that_do_not_fit_each_other_are_refused(data: Path, change: Callable[[h5py.Group], None]) -> None:
    path = packed(data)
    with h5py.File(path, "r+") as file:
        change(file["train"])
    with pytest.raises(InputError, match=r"Split 'train' of the pack '.*p\.h5' is damaged; copy the file again"):
        open_source(path, "train").listing()


def test_a_damaged_image_is_named(data: Path, tmp_path: Path) -> None:
    path = packed(data)
    content = path.read_bytes()
    at = content.index(bytes(range(256)))
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    with pytest.raises(
        InputError, match=r"p\.h5/train/b/3\.jpg' cannot be read \(its bytes in the pack '.*' are damaged\)"
    ):
        index_data_set(
            path, ["train"], tmp_path / "run", ImageSelection(on_bad_image="skip"), threads=2, progress=Silent()
        )


def test_a_copy_of_a_pack_has_the_same_stamps(data: Path, tmp_path: Path) -> None:
    path = packed(data)
    first = open_source(path, "train")
    stamps = [first.stamp(name) for name in first.listing().paths]
    shutil.copyfile(path, tmp_path / "copy.h5")
    os.utime(tmp_path / "copy.h5", ns=(1, 1))
    second = open_source(tmp_path / "copy.h5", "train")
    assert [second.stamp(name) for name in second.listing().paths] == stamps
    assert len(set(stamps)) == len(stamps)


# ---- writing


def test_an_existing_file_is_kept_unless_told_otherwise(data: Path) -> None:
    path = packed(data)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"'.*p\.h5' exists already; use --overwrite to replace it"):
        packed(data, "val")
    assert path.read_bytes() == before
    packed(data, "val", overwrite=True)
    assert open_source(path, "val").listing().class_names == ("a", "b")
    with pytest.raises(InputError, match=r"'.*data' exists already; give a file"):
        packed(data, file=data, overwrite=True)


@pytest.mark.parametrize(
    ("splits", "sentence"), [(("train", "test"), "has no folder 'test'"), (("nothing",), "has no folder 'nothing'")]
)
def test_nothing_is_written_of_a_data_set_that_cannot_be_read(
    data: Path, splits: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        packed(data, *splits)
    assert not (data.parent / "new").exists()


def test_nothing_is_left_of_a_pack_that_fails(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, path: read(self, path) + b"!")
    with pytest.raises(InputError, match=r"train/a/1\.jpg' changed while it was packed; pack again"):
        packed(data)
    assert list((data.parent / "new").iterdir()) == []


def test_an_image_that_cannot_be_read_is_named(data: Path) -> None:
    (data / "train" / "a" / "2.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match=r"train/a/2\.jpg' cannot be read \(No such file or directory\)"):
        packed(data)
    assert not (data.parent / "new").exists()


def test_what_a_killed_pack_left_is_deleted_and_a_file_of_the_users_own_stays(data: Path) -> None:
    (data.parent / "new").mkdir()
    for name in ("p.h5.partial", f"p.h5.{'0f' * 16}.partial"):
        (data.parent / "new" / name).write_bytes(b"half" * 1000)
    path = packed(data)
    assert sorted(file.name for file in path.parent.iterdir()) == ["p.h5", "p.h5.partial"]


WRITING = """
import sys
from pathlib import Path
from compress_ssl.storage.places.place import writer_lease
file = Path(sys.argv[1])
with writer_lease(file):
    file.with_name(f"p.h5.{'0f' * 16}.partial").write_bytes(b"half" * 1000)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_file_that_another_process_writes_is_left_alone(data: Path) -> None:
    file = data.parent / "new" / "p.h5"
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, file], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(StoreBusyError, match=r"p\.h5' is being written by process \d+"):
            packed(data)
        assert file.with_name(f"p.h5.{'0f' * 16}.partial").read_bytes() == b"half" * 1000
        other.communicate()
    assert [path.name for path in packed(data).parent.iterdir()] == ["p.h5"]


def test_a_disk_that_is_too_small_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(data)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DiskSpaceError, match=r"The pack needs 0\.0 GiB, '.*new' has 0\.0 GiB left; free some space"):
        packed(data)


MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from compress_ssl.pipeline.images import pack_writer as module
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.common.progress import Silent

class Made:
    location = Path("made")
    def listing(self):
        paths = [f"class/{row:07d}.jpg" for row in range(COUNT)]
        return Listing(paths, np.zeros(COUNT, np.int32), ("class",))
    def stamp(self, path): return SIZE, 0
    def read(self, path): return path.encode().ljust(SIZE)
    def describe(self, path): return path

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

COUNT, SIZE = int(sys.argv[2]), int(sys.argv[3])
module.list_data_set = lambda *_: {"train": (Made(), Made().listing())}
before = peak()
module.pack(PackSettings(data=Path("."), file=Path(sys.argv[1]), split=("train",)), Silent())
written = peak()
source = open_source(Path(sys.argv[1]), "train")
for path in source.listing().paths[:: COUNT // 100]:
    assert source.read(path) == path.encode().ljust(SIZE)
print(written - before, peak() - before)
"""


@pytest.mark.parametrize(("count", "size", "limit"), [(100_000, 500, 100), (5_000, 100_000, 200)])
def test_memory_does_not_grow_with_the_bytes(tmp_path: Path, count: int, size: int, limit: int) -> None:
    """``limit`` in MiB: a few batches of 16 and some 300 bytes an image; 50 and 480 MiB are packed."""
    root = Path(__file__).parents[3]
    program = [sys.executable, "-c", MANY, str(tmp_path / "many.h5"), str(count), str(size)]
    run = subprocess.run(program, cwd=root, capture_output=True, text=True, check=True)
    written, read = map(int, run.stdout.split())
    assert (tmp_path / "many.h5").stat().st_size > count * size
    assert written < limit
    assert read < limit
