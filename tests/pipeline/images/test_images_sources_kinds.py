"""Every kind of source gives what the folder gives: names, labels, bytes, from many threads, in another process."""

import io
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.pack_writer import pack
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.pack import PackSource
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.images.sources.tar import TarSource
from compress_ssl.storage import Split

CLASSES = ("apple", "bírne")  # a name that is not ASCII
COUNT = 7  # images of a class


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one split, ``train``, of PNGs and JPEGs."""
    root = tmp_path_factory.mktemp("sources") / "folder"
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (root / "train" / name).mkdir(parents=True)
        for number in range(COUNT):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            ending = "JPEG" if number % 2 else "png"
            Image.fromarray(pixels).save(root / "train" / name / f"{name} {number}.{ending}")
    return root


def images(folder: Path) -> list[tuple[str, str, bytes]]:
    """Path below the split, class and bytes of every image, in the folder's order."""
    source = open_source(folder, "train")
    paths, labels, names = source.listing()
    return [(path, names[label], source.read(path)) for path, label in zip(paths, labels, strict=True)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def as_pack(folder: Path, target: Path) -> tuple[Path, Callable[[str], str]]:
    settings = PackSettings(data=folder, file=target.with_suffix(".h5"), split=("train",))
    assert pack(settings, Silent()) == {"train": len(CLASSES) * COUNT}
    return settings.file, lambda path: path


def as_list(folder: Path, target: Path) -> tuple[Path, Callable[[str], str]]:
    (target / "elsewhere").mkdir(parents=True)
    lines = []
    for path, name, content in images(folder):
        file = target / "elsewhere" / Path(path).name
        file.write_bytes(content)
        lines.append(f"./elsewhere/{file.name}\t{name}")
    (target / "train.txt").write_text("\n".join(["", *lines, ""]), encoding="utf-8")
    return target, lambda path: f"elsewhere/{Path(path).name}"


def as_shards(folder: Path, target: Path) -> tuple[Path, Callable[[str], str]]:
    """Two shards beside each other, with labels."""
    target.mkdir()
    everything = images(folder)
    shard_of = {}
    for number, part in enumerate((everything[:5], everything[5:])):
        with tarfile.open(target / f"train-{number:06d}.tar", "w") as tar:
            for path, name, content in part:
                add(tar, str(Path(path).with_suffix(".cls")), name.encode() + b"\n")
                add(tar, f"./{path}", content)
                shard_of[path] = f"train-{number:06d}.tar/{path}"
    return target, shard_of.__getitem__


def as_flat(folder: Path, target: Path) -> tuple[Path, Callable[[str], str]]:
    (target / "train").mkdir(parents=True)
    lines = []
    for path, name, content in images(folder):
        (target / "train" / Path(path).name).write_bytes(content)
        lines.append(f"{Path(path).stem} {name}\n")
    (target / "labels.txt").write_text("".join(reversed(lines)), encoding="utf-8")
    return target, lambda path: Path(path).name


KINDS = {"pack": as_pack, "list": as_list, "shards": as_shards, "flat": as_flat}


@pytest.fixture(scope="module", params=sorted(KINDS))
def made(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Callable[[str], str]]:
    """The dataset in another kind, and what it calls each image of the folder."""
    return KINDS[request.param](folder, tmp_path_factory.mktemp("kind") / request.param)


def label_file(data: Path) -> Path | None:
    return data / "labels.txt" if (data / "labels.txt").exists() else None


def embedded(data: Path, store: Path) -> Split:
    settings = EmbedSettings.model_validate(
        {"data": data, "store": store, "teacher": "random/conv4-16", "size": 16, "resize": 16, "views": 1}
        | {"block_rows": 8}
        | {"split": ("train",), "batch_size": 8, "threads": 2, "renderer": "torchvision", "labels": label_file(data)}
    )
    return embed(settings, Silent())["train"]


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    return embedded(folder, tmp_path_factory.mktemp("reference") / "folder.zarr")


def test_embeddings_are_those_of_the_folder(
    made: tuple[Path, Callable[[str], str]], reference: Split, tmp_path: Path
) -> None:
    data, called = made
    split = embedded(data, tmp_path / "other.zarr")
    assert split.class_names == reference.class_names == CLASSES
    assert split.samples.sample_path == [called(path) for path in reference.samples.sample_path]
    for name in ("label", "content_hash", "image_size", "status"):
        np.testing.assert_array_equal(getattr(split.samples, name), getattr(reference.samples, name))
    for view in (0, 1):
        np.testing.assert_array_equal(split.view(view), reference.view(view))
        np.testing.assert_array_equal(split.augmentation(view), reference.augmentation(view))


def test_a_subset_and_a_limit_can_be_taken(
    made: tuple[Path, Callable[[str], str]], folder: Path, tmp_path: Path
) -> None:
    data, called = made
    chosen = [called(images(folder)[row][0]) for row in (1, 8, 9)]
    (tmp_path / "subset.txt").write_text("\n".join(f"train/{path}" for path in chosen), encoding="utf-8")
    selection = ImageSelection(subset=tmp_path / "subset.txt", limit=2, labels=label_file(data))
    samples = index_data_set(data, ["train"], tmp_path / "run", selection, threads=1, progress=Silent())[
        "train"
    ].samples
    assert samples.sample_path == chosen[:2]
    assert samples.label.tolist() == [0, 1]


def test_the_images_are_looked_at_once(made: tuple[Path, Callable[[str], str]], tmp_path: Path) -> None:
    selection = ImageSelection(labels=label_file(made[0]))

    def index(progress: "Counting") -> None:
        index_data_set(made[0], ["train"], tmp_path / "run", selection, threads=1, progress=progress)

    first, second = Counting(), Counting()
    index(first)
    index(second)
    assert (first.total, second.total) == (len(CLASSES) * COUNT, 0)


class Counting(Silent):
    total = 0

    def track(self, title: str, total: int, unit: str = "images") -> object:  # type: ignore[override]
        self.total += total
        return super().track(title, total, unit)


def read_all(source: ImageSource) -> dict[str, bytes]:
    return {path: source.read(path) for path in source.listing().paths}


def test_many_threads_read_what_one_reads(made: tuple[Path, Callable[[str], str]]) -> None:
    source = open_source(made[0], "train")
    expected = read_all(source)
    paths = list(expected) * 40
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(source.read, paths)) == [expected[path] for path in paths]


def test_a_copy_in_another_process_reads_the_same(made: tuple[Path, Callable[[str], str]]) -> None:
    source = open_source(made[0], "train")
    expected = read_all(source)
    pickled = pickle.dumps(source)
    assert len(pickled) < 2000  # the list of images stays here
    assert read_all(pickle.loads(pickled)) == expected


def test_of_many_threads_that_begin_at_once_one_reads_the_list(
    made: tuple[Path, Callable[[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(made[0], "train")
    paths, loaded = source.listing().paths, []
    if isinstance(source, PackSource | TarSource):
        load = source.load_members
        monkeypatch.setattr(type(source), "load_members", lambda self: (loaded.append(1), load())[1])
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(copy.read, paths))) == len(paths)
    assert len(loaded) == isinstance(source, PackSource | TarSource)


def test_an_image_that_is_not_there_is_not_found(made: tuple[Path, Callable[[str], str]]) -> None:
    source = open_source(made[0], "train")
    for function in (source.read, source.stamp):
        with pytest.raises(FileNotFoundError):
            function("nothing.png")


def test_the_source_says_which_files_it_is_made_of(made: tuple[Path, Callable[[str], str]], folder: Path) -> None:
    files = list(open_source(made[0], "train").files())
    assert files
    assert all(file.is_file() for file in files)
    assert len(set(files)) == len(files)


def test_each_image_is_described_below_the_data_set(made: tuple[Path, Callable[[str], str]]) -> None:
    source = open_source(made[0], "train")
    for path in source.listing().paths:
        assert source.describe(path).startswith(f"{made[0]}/")
        assert source.describe(path).endswith(Path(path).name)


def test_a_changed_image_is_named(folder: Path, tmp_path: Path) -> None:
    """A tar whose member has other bytes than were indexed, in its old length."""
    data, _ = as_shards(folder, tmp_path / "shards")
    path, _, content = images(folder)[6]
    shard = data / "train-000001.tar"
    whole = shard.read_bytes()
    index_data_set(data, ["train"], tmp_path / "run", ImageSelection(), threads=1, progress=Silent())
    at = whole.index(content)
    shard.write_bytes(whole[:at] + b"x" * len(content) + whole[at + len(content) :])
    with pytest.raises(InputError, match=rf"train-000001\.tar/{path}' cannot be decoded"):
        index_data_set(data, ["train"], tmp_path / "run", ImageSelection(), threads=1, progress=Silent())
