"""Embeddings of other programs become the store that our own ``embed`` would have made, or are refused."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from pydantic import ValidationError

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.importing.run import import_embeddings
from compress_ssl.pipeline.embed.importing.settings import ImportSettings
from compress_ssl.storage import EmbeddingStore, open_store
from compress_ssl.storage.errors import NotRepresentableError, StoreExistsError
from compress_ssl.storage.tools.verify import verify_store

Array = np.ndarray[Any, Any]


def features(store: EmbeddingStore, split: str = "train") -> torch.Tensor:
    return torch.from_numpy(store[split].view(0).astype(np.float32))


def published(store: EmbeddingStore, split: str = "train") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What get_feats of the published code gives back for a loader that does not shuffle."""
    labels = torch.from_numpy(store[split].samples.label.astype(np.int64))
    return features(store, split), labels, torch.arange(len(labels))


def bring_in(data: Path, store: Path, *files: object, **settings: Any) -> EmbeddingStore:
    given = {"size": 16, "resize": 20, "teacher": "theirs", "threads": 1, "block_rows": 6, **settings}
    return import_embeddings(ImportSettings(files=tuple(map(str, files)), store=store, data=data, **given), Silent())


def is_ours(imported: EmbeddingStore, ours: EmbeddingStore, split: str = "train") -> None:
    found, wanted = imported[split], ours[split]
    np.testing.assert_array_equal(found.view(0), wanted.view(0))
    np.testing.assert_array_equal(found.augmentation(0), wanted.augmentation(0))
    assert found.samples.sample_path == wanted.samples.sample_path
    np.testing.assert_array_equal(found.samples.content_hash, wanted.samples.content_hash)
    np.testing.assert_array_equal(found.samples.label, wanted.samples.label)
    assert found.views == wanted.views


def test_published_features_train_a_student_and_are_evaluated(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    for split in ("train", "val"):
        torch.save(published(ours, split), tmp_path / f"{split}_feats.pth.tar")

    def run(*words: object) -> str:
        answer = CliRunner().invoke(main, [*map(str, words)])
        assert answer.exit_code == 0, answer.output
        return answer.output

    store, student = tmp_path / "store.zarr", tmp_path / "student"
    files = [f"{split}={tmp_path / f'{split}_feats.pth.tar'}" for split in ("train", "val")]
    run("store", "import", *files, store, "--data", data, "--teacher", "moco-v2-resnet50", "--size", 16, "--resize", 20)
    for split in ("train", "val"):
        is_ours(open_store(store), ours, split)
    run("distill", store, data, student, "--student", "conv4-16", "--student-view", "fresh", "--batch-size", 8,
        "--epochs", 2, "--bank-size", 16, "--threads", 1)  # fmt: skip
    assert (student / "model.safetensors").is_file()
    assert "k-NN 20" in run("evaluate", student, "--data", data, "--threads", 1, "--size", 16, "--resize", 20)
    assert "k-NN 20" in run("evaluate", store, "--threads", 1)
    assert "moco-v2-resnet50 (resnet50), 16 features, float32" in run("store", "info", store)
    run("export", student, tmp_path / "exported")


def test_student_that_wants_replayed_views_is_told_that_there_are_none(
    data: Path, ours: EmbeddingStore, tmp_path: Path
) -> None:
    torch.save(published(ours), tmp_path / "train.pth")
    bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth")
    words = ["distill", str(tmp_path / "store.zarr"), str(data), str(tmp_path / "student"), "--student", "conv4-16"]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 2
    assert "or train with --student-view fresh" in " ".join(answer.output.split())


def test_indices_say_which_image_a_row_is_of(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    torch.save(tuple(part[order] for part in published(ours)), tmp_path / "train.pth")
    is_ours(bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth"), ours)


def test_tensor_alone_or_with_labels_and_of_any_precision(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(ours["train"].samples.sample_path))
    file = tmp_path / "train.pth"
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        for parts in (1, 2, 3):
            saved = (published(ours)[0].to(dtype), *published(ours)[1:])[:parts]
            torch.save(saved if parts > 1 else saved[0], file, _use_new_zipfile_serialization=parts != 2)
            settings = {"paths": (str(tmp_path / "list.txt"),)} if parts == 1 else {}
            store = bring_in(data, tmp_path / "store.zarr", file, overwrite=True, block_rows=24, **settings)
            wanted = saved[0].float().numpy().astype(np.float16)
            np.testing.assert_array_equal(store["train"].view(0), wanted, err_msg=f"{dtype}, {parts} parts")


def save_npy(file: Path, values: Array) -> None:
    np.save(file, values)


def save_hdf5(file: Path, values: Array) -> None:
    with h5py.File(file, "w") as root:
        root["group/embeddings"] = values
        root["group/ids"] = np.arange(len(values))


def save_zarr(file: Path, values: Array) -> None:
    zarr.create_array(file, data=values, chunks=(5, 4))


def save_sharded_group(file: Path, values: Array) -> None:
    zarr.create_group(file).create_array("embeddings", data=values, chunks=(5, 4), shards=(10, 16))


def save_zarr_2(file: Path, values: Array) -> None:
    zarr.create_array(file, data=values, chunks=(5, 4), zarr_format=2)


SAVED = {"npy": save_npy, "hdf5": save_hdf5, "zarr": save_zarr, "sharded": save_sharded_group, "zarr 2": save_zarr_2}


@pytest.mark.parametrize("kind", SAVED)
def test_matrix_with_a_list_in_any_order_of_its_images(
    data: Path, ours: EmbeddingStore, tmp_path: Path, kind: str
) -> None:
    order = np.random.default_rng(0).permutation(24)
    SAVED[kind](tmp_path / "matrix", features(ours).numpy()[order])
    file = tmp_path / "matrix.npy" if kind == "npy" else tmp_path / "matrix"
    paths, lines = ours["train"].samples.sample_path, tmp_path / "list.txt"
    for prefix in ("", "train/", f"{data}/train/"):
        lines.write_text("".join(f"{prefix}{paths[row]}\n" for row in order))
        store = bring_in(data, tmp_path / "store.zarr", file, paths=(str(lines),), block_rows=5, overwrite=True)
        is_ours(store, ours)
        assert verify_store(store).ok
        assert store.attributes["teacher"]["name"] == "theirs"
        fingerprints = [each.attributes["data_set"]["fingerprint"]["train"] for each in (store, ours)]
        assert fingerprints[0] == fingerprints[1]


def test_list_may_name_some_of_the_images_only(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    rows = [20, 3, 7]
    np.save(tmp_path / "some.npy", features(ours).numpy()[rows])
    (tmp_path / "list.txt").write_text("\n".join(ours["train"].samples.sample_path[row] for row in rows))
    store = bring_in(
        data, tmp_path / "store.zarr", f"some:train={tmp_path / 'some.npy'}", paths=(f"some={tmp_path / 'list.txt'}",)
    )
    assert store["some"].folder == "train"
    np.testing.assert_array_equal(store["some"].view(0), ours["train"].view(0)[[3, 7, 20]])


def test_normalised_on_request(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    values = (features(ours).double() * 1e7, *published(ours)[1:])
    torch.save(values, tmp_path / "train.pth")
    with pytest.raises(NotRepresentableError, match=r"'apple/000\.png' \(split train, row 0, view 0\) holds"):
        bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth")
    assert not (tmp_path / "store.zarr").exists()
    store = bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth", normalise=True)
    np.testing.assert_allclose(np.linalg.norm(store["train"].view(0).astype(np.float32), axis=1), 1, atol=2e-3)
    assert store.attributes["teacher"]["normalised"] is True


def test_value_that_float16_does_not_hold_is_named_and_nothing_stays(
    data: Path, ours: EmbeddingStore, tmp_path: Path
) -> None:
    values, *rest = published(ours)
    for value, error, sentence in (
        (np.nan, InputError, r"row of 'pear/013\.jpg' for split train holds NaN or infinity"),
        (np.inf, InputError, r"row of 'pear/013\.jpg' for split train holds NaN or infinity"),
        (1e6, NotRepresentableError, r"'pear/013\.jpg' \(split train, row 13, view 0\) holds"),
    ):
        values[13, 5] = value
        torch.save((values, *rest), tmp_path / "train.pth")
        with pytest.raises(error, match=sentence):
            bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "train.pth"]


def pth(content: Callable[[EmbeddingStore], object]) -> Callable[[Path, EmbeddingStore], Path]:
    def save(folder: Path, ours: EmbeddingStore) -> Path:
        torch.save(content(ours), folder / "train.pth")
        return folder / "train.pth"

    return save


def npy(content: Array) -> Callable[[Path, EmbeddingStore], Path]:
    def save(folder: Path, ours: EmbeddingStore) -> Path:
        np.save(folder / "train.npy", content)
        return folder / "train.npy"

    return save


def other_labels(ours: EmbeddingStore) -> object:
    values, labels, indices = published(ours)
    labels[3] = 1
    return values, labels, indices


def double_index(ours: EmbeddingStore) -> object:
    values, labels, indices = published(ours)
    indices[3] = 4
    return values, labels, indices


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


def zarr_with_pickles(folder: Path, ours: EmbeddingStore) -> Path:
    metadata = {"zarr_format": 2, "shape": [24, 16], "chunks": [24, 16], "dtype": "<f4", "compressor": None,
                "fill_value": 0, "order": "C", "filters": [{"id": "pickle", "protocol": 4}]}  # fmt: skip
    (folder / "train.zarr").mkdir()
    (folder / "train.zarr" / ".zarray").write_text(json.dumps(metadata))
    return folder / "train.zarr"


def pipe_for_a_chunk(folder: Path, ours: EmbeddingStore) -> Path:
    save_zarr(folder / "train.zarr", np.ones((24, 16), np.float32))
    chunk = folder / "train.zarr/c/0/0"
    chunk.unlink()
    os.mkfifo(chunk)
    return folder / "train.zarr"


def two_matrices(folder: Path, ours: EmbeddingStore) -> Path:
    with h5py.File(folder / "train.h5", "w") as root:
        root["one"], root["two"] = np.ones((24, 2)), np.ones((24, 2))
    return folder / "train.h5"


def link_out(folder: Path, ours: EmbeddingStore) -> Path:
    with h5py.File(folder / "train.h5", "w") as root:
        root["one"] = h5py.ExternalLink("other.h5", "one")
    return folder / "train.h5"


def archive(folder: Path, ours: EmbeddingStore) -> Path:
    with zipfile.ZipFile(folder / "train.zip", "w") as file:
        file.writestr("a", "b")
    return folder / "train.zip"


def npz(folder: Path, ours: EmbeddingStore) -> Path:
    np.savez(folder / "train.npz", embeddings=np.ones((24, 3)))
    return folder / "train.npz"


def cut_header(folder: Path, ours: EmbeddingStore) -> Path:
    content = npy(np.ones((24, 3)))(folder, ours).read_bytes()
    (folder / "train.npy").write_bytes(content.replace(b"(24, 3)", b"(10**9,"))
    return folder / "train.npy"


def text(folder: Path, ours: EmbeddingStore) -> Path:
    (folder / "train.txt").write_text("1 2 3")
    return folder / "train.txt"


BAD = {
    "fewer rows": (
        pth(lambda ours: tuple(part[:20] for part in published(ours))),
        "has 20 rows, '.*train' 24 images; give",
    ),
    "labels": (pth(other_labels), r"has class 1 for 'apple/003\.jpg', the dataset class 0 \(1 of 24 differ\)"),
    "indices": (pth(double_index), "indices of .* are not the numbers from 0 to 23, each once"),
    "a dict": (pth(lambda ours: {"state_dict": {}}), "holds neither a tensor nor"),
    "four parts": (pth(lambda ours: (*published(ours), 1)), "holds neither a tensor nor"),
    "labels of another length": (
        pth(lambda ours: (published(ours)[0], torch.zeros(3, dtype=torch.int64))),
        "holds labels of shape",
    ),
    "code": (pth(lambda ours: Bomb()), "would run builtins.exec when read; it was refused"),
    "objects": (npy(np.array([["a"]], dtype=object)), "cannot be read"),
    "whole numbers": (npy(np.ones((24, 3), np.int32)), r"holds int32 of shape \(24, 3\); embeddings are floating"),
    "a vector": (npy(np.ones(24)), r"holds float64 of shape \(24,\)"),
    "no list": (npy(np.ones((24, 3))), "does not record the image of each row; give a list with --paths"),
    "pickling codec": (zarr_with_pickles, "was written with pickle, which is not read from other programs"),
    "pipe": (pipe_for_a_chunk, "train.zarr/c/0/0' is neither a file nor a folder"),
    "two matrices": (two_matrices, r"holds several matrices \(one, two\); choose one with --array"),
    "link": (link_out, "holds no matrix of numbers"),
    "npz": (npz, "is an archive of numpy.savez; save its array with numpy.save"),
    "header that is cut": (cut_header, "cannot be read"),
    "zip": (archive, "is damaged, or holds objects other than tensors"),
    "text": (text, "is neither a file of torch.save, nor .npy, HDF5 or zarr"),
    "nothing": (lambda folder, ours: folder / "none.npy", "is not there; give the file"),
}


def test_bad_file_is_one_sentence_and_leaves_nothing(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    for fault, (save, sentence) in BAD.items():
        folder = tmp_path / fault
        folder.mkdir()
        file = save(folder, ours)
        with pytest.raises(InputError, match=sentence):
            bring_in(data, folder / "store.zarr", file)
        assert not list(folder.glob("store*")), fault


LISTS = {
    "short": (lambda paths: paths[:-1], "has 24 rows, '.*' 23 lines; give one line per row"),
    "twice": (lambda paths: [*paths[:-1], paths[0]], r"'apple/000\.png' is listed twice"),
    "strange": (
        lambda paths: [*paths[:-1], "kiwi/1.png"],
        r"'kiwi/1\.png', one of the images asked for, is not an image in",
    ),
}


def test_bad_list_is_one_sentence(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", features(ours).numpy())
    for change, sentence in LISTS.values():
        (tmp_path / "list.txt").write_text("\n".join(change(ours["train"].samples.sample_path)))
        with pytest.raises(InputError, match=sentence):
            bring_in(data, tmp_path / "store.zarr", tmp_path / "train.npy", paths=(str(tmp_path / "list.txt"),))


def test_array_is_chosen_by_name(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    file = two_matrices(tmp_path, ours)
    (tmp_path / "list.txt").write_text("\n".join(ours["train"].samples.sample_path))
    settings = {"paths": (str(tmp_path / "list.txt"),)}
    assert bring_in(data, tmp_path / "store.zarr", file, array="two", **settings)["train"].feature_dim == 2
    with pytest.raises(InputError, match=r"There is no matrix 'twoo' in '.*'\. Did you mean 'two'"):
        bring_in(data, tmp_path / "other.zarr", file, array="twoo", **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"files": ("a.npy", "train=b.npy")}, "two files are of one split"),
        ({"paths": ("val=b.txt",)}, "--paths names the images of split val, of which no FILE is given"),
        ({"size": 300}, "--size 300 is larger than --resize 256"),
        ({"files": ("train:../x=b.npy",)}, "leads out of the dataset"),
    ],
)
def test_options_that_do_not_fit_are_refused(settings: dict[str, Any], sentence: str) -> None:
    given = {"files": ("a.npy",), "store": "s.zarr", "data": Path("data"), "teacher": "x", **settings}
    with pytest.raises(ValidationError, match=sentence):
        ImportSettings(**given)


def test_store_that_exists_is_replaced_only_when_asked(data: Path, ours: EmbeddingStore, tmp_path: Path) -> None:
    torch.save(published(ours), tmp_path / "train.pth")
    bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth")
    with pytest.raises(StoreExistsError, match="exists already; use --overwrite to replace it, or another path"):
        bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth")
    assert (
        bring_in(data, tmp_path / "store.zarr", tmp_path / "train.pth", teacher="new", overwrite=True).attributes[
            "teacher"
        ]["name"]
        == "new"
    )


def test_exported_store_comes_back_by_the_commands(ours: EmbeddingStore, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(main, [*map(str, words)])

    assert run("store", "export", ours.path, "--to", tmp_path / "ours.h5").exit_code == 0
    refused = run("store", "import", tmp_path / "ours.h5", tmp_path / "again.zarr", "--teacher", "x")
    assert (refused.exit_code, "leave --teacher out" in " ".join(refused.output.split())) == (2, True)
    answer = run("store", "import", tmp_path / "ours.h5", tmp_path / "again.zarr")
    assert answer.exit_code == 0, answer.output
    contents = [
        {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in (ours.path, tmp_path / "again.zarr")
    ]
    assert contents[0] == contents[1]
    missing = run("store", "import", tmp_path / "none.npy", tmp_path / "other.zarr")
    assert (missing.exit_code, "--data is missing; give it." in missing.output) == (2, True)
