"""Which images and settings stage one takes, what it leaves out, and what it refuses, by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.settings import SplitSource
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore, Status
from compress_ssl.storage.errors import NotRepresentableError, StoreExistsError, StoreMismatchError

Embedded = Callable[..., EmbeddingStore]


def test_a_bad_image_is_recorded_and_left_out_when_asked(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    bad = data / "train" / "apple" / "003.jpg"
    bad.write_bytes(bad.read_bytes()[:100])
    train = embedded(data, tmp_path / "store.zarr", on_bad_image="skip")["train"]
    row = train.samples.sample_path.index("apple/003.jpg")
    assert train.samples.status[row] == Status.BAD_IMAGE
    assert np.flatnonzero(~train.samples.good).tolist() == [row]
    for view in (0, 1, 2):
        assert np.flatnonzero(np.isnan(train.view(view)).any(axis=1)).tolist() == [row]
        assert np.isnan(train.view(view)[row]).all()


def test_a_student_does_not_start_on_a_store_whose_views_come_out_otherwise(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    """The store's canaries are swapped for others: they are the pictures of some other renderer."""
    metadata = embedded(data, tmp_path / "store.zarr").path / "zarr.json"
    words = ["distill", str(tmp_path / "store.zarr"), str(data), str(tmp_path / "student"), "--student", "conv4-16",
             "--batch-size", "8", "--epochs", "1", "--bank-size", "16", "--threads", "1"]  # fmt: skip
    content = json.loads(metadata.read_text())
    canaries = content["attributes"]["canaries"]["train"]
    for one, other in zip(canaries[::2], canaries[1::2], strict=True):
        for key in ("xxh3_128", "picture"):
            one[key], other[key] = other[key], one[key]
    metadata.write_text(json.dumps(content))
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 2
    assert "16 of 16 canaries of split train of" in answer.output
    assert "is refused: use the renderer and the versions" in " ".join(answer.output.split())
    assert not (tmp_path / "student").exists()
    fresh = CliRunner().invoke(main, [*words, "--student-view", "fresh"])
    assert fresh.exit_code == 0, fresh.output


def test_a_bad_image_is_left_out_of_training_and_of_evaluation(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    for path in ("train/apple/003.jpg", "val/pear/005.jpg"):
        (data / path).write_bytes(b"no image")
    store, student = embedded(data, tmp_path / "store.zarr", on_bad_image="skip"), tmp_path / "student"
    trained = CliRunner().invoke(
        main,
        ["distill", str(store.path), str(data), str(student), "--student", "conv4-16", "--batch-size", "8",
         "--epochs", "1", "--bank-size", "16", "--threads", "1"],
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert all(tensor.isfinite().all() for tensor in load_network(str(student)).module.state_dict().values())
    evaluated = CliRunner().invoke(main, ["evaluate", str(store.path), "--threads", "1"])
    assert evaluated.exit_code == 0, evaluated.output
    assert "nan" not in evaluated.output.lower()


def test_the_good_images_are_the_same_with_a_bad_one_among_them(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    whole = embedded(data, tmp_path / "whole.zarr", batch_size=1)["train"]
    bad = data / "train" / "apple" / "003.jpg"
    bad.write_bytes(b"no image")
    with_bad = embedded(data, tmp_path / "bad.zarr", batch_size=1, on_bad_image="skip")["train"]
    good = with_bad.samples.good
    for view in (0, 1, 2):
        assert np.array_equal(with_bad.view(view)[good], whole.view(view)[good])


def test_a_bad_image_stops_the_run_by_name(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    (data / "train" / "pear" / "030.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"train/pear/030\.png' cannot be decoded .*--on-bad-image skip"):
        embedded(data, tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr").exists()


@pytest.fixture(scope="module")
def made(images: Callable[..., Path], embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``teacher.safetensors`` and ``store.zarr``; read it, never change it."""
    folder = tmp_path_factory.mktemp("made")
    save_network(folder / "teacher.safetensors", load_network("random/conv4-16"))
    embedded(images(folder / "data"), folder / "store.zarr", teacher=str(folder / "teacher.safetensors"))
    return folder


DIFFERING: list[tuple[dict[str, Any], str]] = [
    ({"views": 3}, "views = 2, now it is 3"),
    ({"seed": 5}, "the seed of view 1 = 0, now it is 5"),
    ({"policy": "moco-v2"}, "the policy of view 1"),
    ({"size": 12}, "the size of view 0 = 16, now it is 12"),
    ({"resize": 18}, "the policy of view 0"),
    ({"block_rows": 8}, "block_rows"),
    ({"renderer": "torchvision"}, "renderer = 'dali', now it is 'torchvision'"),
    ({"teacher": "random/conv4-32"}, "architecture = 'conv4-16', now it is 'conv4-32'"),
    ({"teacher": "random/conv4-16", "seed": 5}, "weights_sha256"),  # the seed draws the teacher
    ({"normalise": True}, "normalised = False, now it is True"),
    ({"split": ("train",)}, r"splits = \['train', 'val'\], now it is \['train'\]"),
    ({"limit": 20}, "row 2 of split train"),
]
if choose_precision("bfloat16", torch.device("cpu")) == "bfloat16":
    DIFFERING.append(({"precision": "bfloat16"}, "precision = 'float32', now it is 'bfloat16'"))


def test_resuming_with_other_settings_is_refused_by_the_first_that_differs(made: Path, embedded: Embedded) -> None:
    for changed, named in DIFFERING:
        given = {"teacher": str(made / "teacher.safetensors"), **changed}
        with pytest.raises(StoreMismatchError, match=named):
            embedded(made / "data", made / "store.zarr", resume=True, **given)


def test_a_split_is_a_folder_of_the_data_set(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    """A store that names another would not be opened."""
    for folder in ("../other", "/etc", "a/../.."):
        with pytest.raises(ValidationError, match="leads out of the dataset"):
            embedded(data, tmp_path / "s.zarr", split=(f"train={folder}",))


def test_a_split_of_a_store_is_not_called_as_the_data_set_itself() -> None:
    """As ``evaluate --train-split .`` would have it."""
    for name in (".", "a/b"):
        with pytest.raises(ValidationError, match=f"'{name}' cannot name a split; give the folder above it as DATA"):
            SplitSource(name=name, folder=name)


def without(keys: set[str], value: Any) -> Any:
    """Metadata as it was before it had these keys."""
    if isinstance(value, dict):
        return {key: without(keys, inner) for key, inner in value.items() if key not in keys}
    return [without(keys, inner) for inner in value] if isinstance(value, list) else value


def test_a_store_that_does_not_say_so_is_bilinear_and_without_a_hardware_decoder(
    data: Path, tmp_path: Path, embedded: Embedded, wanting: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    store = embedded(data, tmp_path / "store.zarr", teacher=wanting("bilinear"))
    expected = [store["train"].view(view).tobytes() for view in (0, 1, 2)]
    for file in store.path.rglob("zarr.json"):
        file.write_text(json.dumps(without({"interpolation", "hw_decoder_load"}, json.loads(file.read_bytes()))))
    for place in ("embeddings", "augmentation"):
        shutil.rmtree(store.path / "train" / place / "c" / "2")
    (store.path / "train" / "embeddings" / "commits" / "2.json").unlink()
    again = embedded(data, tmp_path / "store.zarr", teacher=wanting("bilinear"), resume=True)
    assert "interpolation" not in again["train"].views[1]
    assert [again["train"].view(view).tobytes() for view in (0, 1, 2)] == expected
    assert caplog.messages == []
    with pytest.raises(StoreMismatchError, match=r"interpolation( of view 0)? = 'bilinear', now it is 'bicubic'"):
        embedded(data, tmp_path / "store.zarr", teacher=wanting("bicubic"), resume=True)


def test_going_on_with_images_that_a_hardware_decoder_decoded_is_refused(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    metadata = embedded(data, tmp_path / "store.zarr").path / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["rendering"]["hw_decoder_load"] = 0.65
    metadata.write_text(json.dumps(content))
    with pytest.raises(StoreMismatchError, match=r"hw_decoder_load = 0\.65, now it is 0\.0"):
        embedded(data, tmp_path / "store.zarr", resume=True)


def test_going_on_with_other_images_is_refused_by_row(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    embedded(data, tmp_path / "store.zarr")
    folder = data / "train" / "apple"
    shutil.copy(folder / "004.png", folder / "006.png")
    with pytest.raises(StoreMismatchError, match=r"row 6 of split train is 'apple/006\.png' with other content"):
        embedded(data, tmp_path / "store.zarr", resume=True)


def test_a_store_that_exists_is_neither_touched_nor_gone_on_with_unasked(made: Path, embedded: Embedded) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "store.zarr").rglob("*") if path.is_file()}
    with pytest.raises(StoreExistsError, match="use --resume to finish it or --overwrite"):
        embedded(made / "data", made / "store.zarr", teacher=str(made / "teacher.safetensors"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_teacher_whose_output_float16_cannot_hold_stops_the_run_naming_the_row(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    network = load_network("random/conv4-16")
    with torch.no_grad():
        network.module.get_submodule("13").weight.mul_(1e30)  # the last batch norm's
    save_network(tmp_path / "broken.safetensors", network)
    expected = r"'apple/000\.png' \(split train, row 0, view 0\) holds .*(inf|e\+).*, which float16 cannot"
    with pytest.raises(NotRepresentableError, match=expected):
        embedded(data, tmp_path / "store.zarr", teacher=str(tmp_path / "broken.safetensors"))


def test_normalised_embeddings_of_any_length_fit(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    raw = embedded(data, tmp_path / "raw.zarr")["train"].view(0).astype(np.float64)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for name, factor in (("overflow", 2.0**40), ("underflow", 2.0**-40)):
        network = load_network("random/conv4-16")
        with torch.no_grad():
            network.module.get_submodule("13").weight.mul_(factor)
        save_network(tmp_path / f"{name}.safetensors", network)
        words = {"teacher": str(tmp_path / f"{name}.safetensors")}
        with pytest.raises(NotRepresentableError, match="--normalise"):
            embedded(data, tmp_path / f"{name}-raw.zarr", **words)
        store = embedded(data, tmp_path / f"{name}.zarr", **words, normalise=True)
        assert store.attributes["teacher"]["normalised"] is True
        np.testing.assert_allclose(store["train"].view(0), expected, atol=2e-3)


def test_a_limit_takes_images_evenly_from_all_classes(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    train = embedded(data, tmp_path / "store.zarr", limit=6)["train"]
    assert train.samples.sample_path == [
        "apple/000.png", "apple/006.png", "apple/012.png", "pear/018.png", "pear/024.png", "pear/030.png"
    ]  # fmt: skip
    assert train.samples.label.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_subset_list_takes_those_images_of_its_splits_and_the_other_splits_whole(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    (tmp_path / "list.txt").write_text("train/pear/030.png\ntrain/apple/002.png\n")
    store = embedded(data, tmp_path / "store.zarr", subset=tmp_path / "list.txt")
    assert store["train"].samples.sample_path == ["apple/002.png", "pear/030.png"]
    assert len(store["val"]) == 8


def test_a_flat_folder_has_no_labels(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(data / "train" / "apple", flat)
    train = embedded(flat, tmp_path / "store.zarr", split=("train=.",))["train"]
    assert train.class_names == ()
    assert set(train.samples.label.tolist()) == {-1}
    assert np.isfinite(train.view(2)).all()


def test_a_split_has_the_folder_and_the_views_it_is_given(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    shutil.copytree(data / "val", data / "held-out")
    store = embedded(data, tmp_path / "store.zarr", split=("train", "test=held-out:1", "val:0"))
    assert store.split_names == ["test", "train", "val"]
    assert [len(store[name].views) for name in store.split_names] == [2, 3, 1]
    assert store["test"].folder == "held-out"
    assert np.array_equal(store["test"].view(0), store["val"].view(0))
