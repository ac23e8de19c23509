"""What a user gets wrong becomes one sentence and exit code 2, and nothing is left half-written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from PIL import Image

Call = Callable[..., Result]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder except the images' index, which is a cache."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "index" not in path.relative_to(folder).parts
    }


def assert_one_sentence(result: Result, sentence: str, exit_code: int = 2) -> None:
    """The last line of standard error is the sentence, and only progress stands before it."""
    assert isinstance(result.exception, SystemExit), result.exception
    *before, last = result.stderr.splitlines()
    assert last.startswith("Error: "), result.stderr
    assert sentence in last
    assert result.exit_code == exit_code
    assert "Traceback" not in result.stderr
    assert not any(line.startswith("Error") for line in before)


def truncate(path: Path, size: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:size])


UNUSABLE = [
    ("embed nowhere new EMBED", "The dataset 'nowhere' does not exist; give the folder or the pack that holds train."),
    (
        "embed notes.txt new EMBED",
        "'notes.txt' is neither a folder nor a pack; make a pack with 'compress-ssl pack DATA notes.txt'.",
    ),
    (
        "embed empty new EMBED",
        "The dataset 'empty' has no folder 'train' (nor train.txt, train.tar, train-000000.tar); check",
    ),
    ("embed data new EMBED --split empty", "The dataset 'data' has no folder 'empty'"),
    ("embed hollow new EMBED", "'hollow/train' holds no images; give a folder with"),
    ("embed data new EMBED --size 32", "--size 32 is larger than --resize 16; the crop must fit"),
    ("embed data new EMBED --teacher random/conv4-17", "no architecture 'conv4-17'. Did you mean 'conv4-16'?"),
    ("embed data new EMBED --teacher torchvision/resnet19", "no torchvision network 'resnet19'. Did you mean 'res"),
    ("embed data new EMBED --teacher resnet18", "give torchvision/resnet18 for trained ones, random/resnet18"),
    ("embed data new EMBED --teacher nowhere", "The network 'nowhere' is not a run's folder"),
    ("embed data new EMBED --teacher empty", "'empty' holds no model.safetensors"),
    ("embed data new EMBED --subset nowhere.txt", "The subset list 'nowhere.txt' is not a file"),
    ("embed data notes.txt/new EMBED", "is a file where a folder is needed; check the path."),
    ("embed data teacher.zarr EMBED", "'teacher.zarr' exists already; use --resume to finish it or --overwrite"),
    ("embed data teacher.zarr EMBED --resume --views 3", "views = 2, now it is 3"),
    ("embed data teacher.zarr EMBED --resume --size 8", "the size of view 0 = 16, now it is 8"),
    ("embed data empty EMBED --resume", "'empty' is not an embedding store"),
    ("embed data new EMBED --teacher random/alexnet", "alexnet cannot take images of 16 pixels ("),
    ("embed data new EMBED --split train=val", "two splits have the same name; name each once."),
    ("embed data new EMBED --seed 18446744073709551616", "--seed: input should be less than 18446744073709551616"),
    ("pretrain data new --arch alexnet --size 16 --batch-size 8", "alexnet cannot take images of 16 pixels ("),
    ("distill teacher.zarr data new DISTILL --student alexnet", "alexnet cannot take images of 16 pixels ("),
    ("distill nowhere data new DISTILL", "'nowhere' does not exist; make one with 'compress-ssl embed DATA STORE'"),
    ("distill data data new DISTILL", "'data' is not an embedding store; make one with"),
    ("distill teacher.zarr nowhere new DISTILL", "The dataset 'nowhere' does not exist"),
    ("distill teacher.zarr data new DISTILL --student resnet81", "Did you mean 'resnet18'"),
    ("distill teacher.zarr data new DISTILL --split test", "'teacher.zarr' has no split 'test'; it has train, val."),
    ("distill teacher.zarr data new DISTILL --split val --batch-size 2", "embed with --views"),
    ("distill teacher.zarr data new DISTILL --views 7", "--views 7 is set, but 'teacher.zarr' has 2"),
    ("distill teacher.zarr data new DISTILL --batch-size 25", "--batch-size 25 is more than the 24 good images"),
    ("distill teacher.zarr data student DISTILL", "The run 'student' exists already; use --resume to resume"),
    ("distill teacher.zarr data student DISTILL --resume --epochs 3", "'student' was started with epochs = 2, now it"),
    ("distill teacher.zarr data notes.txt DISTILL", "'notes.txt' is a file; give a folder for the run."),
    ("distill teacher.zarr data data DISTILL --overwrite", "'data' is not empty and not a run; give another folder."),
    ("pretrain data new --arch conv4-16 --size 16 --batch-size 25", "--batch-size 25 exceeds the 24 images of"),
    ("pretrain data new --arch conv4", "There is no architecture 'conv4'. Did you mean 'conv4-"),
    (
        "evaluate random/conv4-16 --data data",
        "'random/conv4-16' has no folder; give one for the results with --output.",
    ),
    ("evaluate studnt --data data", "'studnt' does not exist; give a store, a run's folder, a checkpoint file"),
    ("evaluate student", "--data is needed to compute the features of 'student'; only a store has them already."),
    ("evaluate teacher.zarr --test-split test", "'teacher.zarr' has no split 'test'; it has train, val."),
    ("evaluate teacher.zarr --labels-per-class 13", "Class 0 has 12 training images, fewer than the 13 labels"),
    ("evaluate empty --data data", "'empty' holds no model.safetensors"),
    ("store info nowhere", "'nowhere' does not exist"),
    ("store info data", "'data' is not an embedding store"),
    ("store verify notes.txt", "'notes.txt' is not an embedding store"),
    ("run empty", "The recipe 'empty' is a folder; give a TOML file."),
    ("run notes.txt", "'notes.txt' is not valid TOML"),
]


def test_what_cannot_be_used_is_named_and_nothing_is_written(
    call: Call, workplace: Path, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    (workplace / "notes.txt").write_text("not a picture")
    (workplace / "empty").mkdir()
    for split in ("train", "val"):
        (workplace / "hollow" / split).mkdir(parents=True)
    before = files(workplace)
    options = {"EMBED": embed_options, "DISTILL": distill_options}
    for words, sentence in UNUSABLE:
        split = [part for word in words.split() for part in options.get(word, (word,))]
        assert_one_sentence(call(*split), sentence)
        assert files(workplace) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", ["embed data new EMBED", "distill teacher.zarr data new DISTILL"])
def test_gpu_that_is_not_there_is_named(
    call: Call, workplace: Path, command: str, embed_options: tuple[str, ...], distill_options: tuple[str, ...]
) -> None:
    options = {"EMBED": embed_options, "DISTILL": distill_options}
    words = [part for word in command.split() for part in options.get(word, (word,))]
    assert_one_sentence(call(*words, "--device", "cuda"), "--device cuda was asked for, but torch sees no GPU")
    assert not (workplace / "new").exists()


def test_resumed_store_of_other_images_names_the_first_row_that_differs(
    call: Call, workplace: Path, embed_options: tuple[str, ...]
) -> None:
    Image.new("RGB", (20, 20)).save(workplace / "data" / "train" / "apple" / "03.png")
    before = files(workplace / "teacher.zarr")
    result = call("embed", "data", "teacher.zarr", *embed_options, "--resume")
    assert_one_sentence(result, "row 3 of split train is 'apple/03.png' with other content")
    assert files(workplace / "teacher.zarr") == before


def test_student_of_changed_images_names_the_image(
    call: Call, workplace: Path, distill_options: tuple[str, ...]
) -> None:
    Image.new("RGB", (20, 20)).save(workplace / "data" / "train" / "pear" / "11.png")
    result = call("distill", "teacher.zarr", "data", "new", *distill_options)
    assert_one_sentence(result, "row 23 of split train, 'pear/11.png', has other content in 'data/train'; give")
    assert not (workplace / "new" / "model.safetensors").exists()


def test_incomplete_view_stops_the_student(call: Call, workplace: Path, distill_options: tuple[str, ...]) -> None:
    (workplace / "teacher.zarr" / "train" / "embeddings" / "commits" / "2.json").unlink()
    result = call("distill", "teacher.zarr", "data", "new", *distill_options)
    assert_one_sentence(result, "View 2 of split train of 'teacher.zarr' is not complete; finish it with")


def test_incomplete_evaluation_view_stops_the_evaluation(call: Call, workplace: Path) -> None:
    (workplace / "teacher.zarr" / "val" / "embeddings" / "commits" / "0.json").unlink()
    before = files(workplace)
    assert_one_sentence(call("evaluate", "teacher.zarr"), "View 0 of split val of 'teacher.zarr' is not complete")
    assert files(workplace) == before


@pytest.mark.parametrize("damaged", ["zarr.json", "train/zarr.json", "train/embeddings/zarr.json"])
@pytest.mark.parametrize("command", ["store info", "store verify", "evaluate"])
def test_truncated_metadata_is_named(call: Call, workplace: Path, damaged: str, command: str) -> None:
    truncate(workplace / "teacher.zarr" / damaged)
    assert_one_sentence(call(*command.split(), "teacher.zarr"), "teacher.zarr")


def test_half_written_checkpoint_is_named(call: Call, workplace: Path, distill_options: tuple[str, ...]) -> None:
    truncate(workplace / "student" / "checkpoint.pt")
    before = files(workplace)
    result = call("distill", "teacher.zarr", "data", "student", *distill_options, "--resume")
    assert_one_sentence(result, "The checkpoint 'student/checkpoint.pt' cannot be read")
    assert files(workplace) == before


def test_half_written_model_is_named(call: Call, workplace: Path) -> None:
    truncate(workplace / "student" / "model.safetensors", 3000)
    before = files(workplace)
    result = call("evaluate", "student", "--data", "data")
    assert_one_sentence(result, "'student/model.safetensors' is a damaged safetensors file")
    assert files(workplace) == before


def test_images_without_labels_cannot_be_scored(call: Call, workplace: Path) -> None:
    for split in ("train", "val"):
        for number, path in enumerate(sorted((workplace / "data" / split).rglob("*.png"))):
            path.rename(workplace / "data" / split / f"{number}.png")
        for folder in ("apple", "pear"):
            (workplace / "data" / split / folder).rmdir()
    result = call("evaluate", "student", "--data", "data", "--size", "16", "--resize", "16")
    assert_one_sentence(result, "label")
    assert not (workplace / "student" / "nearest-neighbour.json").exists()


def test_image_that_cannot_be_decoded_is_named(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    truncate(workplace / "data" / "train" / "apple" / "05.png")
    result = call("embed", "data", "new", *embed_options)
    assert_one_sentence(result, "The image 'data/train/apple/05.png' cannot be decoded")
    assert not (workplace / "new").exists()


def test_overwrite_begins_again(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    result = call("embed", "data", "teacher.zarr", *embed_options, "--overwrite", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in workplace.iterdir()) == ["data", "index", "student", "teacher.zarr"]
    assert call("store", "verify", "teacher.zarr").exit_code == 0


def test_overwrite_leaves_alone_what_is_not_a_store(
    call: Call, workplace: Path, embed_options: tuple[str, ...]
) -> None:
    before = files(workplace)
    assert_one_sentence(call("embed", "data", "student", *embed_options, "--overwrite"), "'student'")
    assert files(workplace) == before


def test_store_that_is_being_written_is_refused(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    from compress_ssl.storage.places.place import writer_lease

    with writer_lease(Path("teacher.zarr")):
        result = call("embed", "data", "teacher.zarr", *embed_options, "--resume")
    assert_one_sentence(result, "'teacher.zarr' is being written by process")


def test_run_that_is_being_written_is_refused(call: Call, workplace: Path, distill_options: tuple[str, ...]) -> None:
    from compress_ssl.storage.places.place import writer_lease

    before = files(workplace)
    with writer_lease(Path("student")):
        result = call("distill", "teacher.zarr", "data", "student", *distill_options, "--resume")
    assert_one_sentence(result, "'student' is being written by process")
    assert files(workplace) == before


def test_folder_that_may_not_be_written_is_named(call: Call, workplace: Path) -> None:
    shutil.copytree(workplace / "teacher.zarr", workplace / "copy.zarr")
    (workplace / "copy.zarr.evaluation").write_text("a file where the results should go")
    sentence = "'copy.zarr.evaluation' (Not a directory); give another folder with --output."
    assert_one_sentence(call("evaluate", "copy.zarr"), f"Nothing can be written into {sentence}")
