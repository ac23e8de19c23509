"""What happens while a command runs: progress, an interruption, a full disk; and looking at what came out."""

import contextlib
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from compress_ssl.storage import open_store
from tests.cli.conftest import OnProgress
from tests.disks import mount, small_disk
from tests.processes import shown_on_terminal, start_command, wait_until

Call = Callable[..., Result]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2m") as mounted:
        yield mounted


# The sample arrays take about 300 KiB of pages, the whole store about 700 KiB.
@pytest.mark.parametrize("size", ["150k", "600k"])
def test_embed_does_not_begin_what_does_not_fit(
    call: Call, made: Path, embed_options: tuple[str, ...], tmp_path: Path, size: str
) -> None:
    words = ("--block-rows", "2", "--index-folder", tmp_path / "index")
    with small_disk(tmp_path / "disk", size) as disk:
        full = call("embed", made / "data", disk / "store.zarr", *embed_options, *words)
        assert full.exit_code == 1, full.output
        assert "left; free some space, give another path, or lower --views.\n" in full.stderr
        assert not list(disk.iterdir())
        mount(disk, "-o", "remount,size=8m")
        finished = call("embed", made / "data", disk / "store.zarr", *embed_options, *words)
        assert finished.exit_code == 0, finished.output


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_three_quick_ctrl_c_end_embed_without_a_traceback(
    call: Call, made: Path, embed_options: tuple[str, ...], tmp_path: Path, seconds: float
) -> None:
    store = tmp_path / "store.zarr"
    words = ("embed", made / "data", store, *embed_options, "--views", "20", "--block-rows", "2")
    process = start_command(*words)
    wait_until(lambda: list(store.glob("train/embeddings/commits/*/*.json")), process, seconds=60)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
    assert process.wait() == 130
    assert process.errors.splitlines()[-1].startswith("Stopped")
    assert "Traceback" not in process.errors
    assert call(*words, "--resume").exit_code == 0


def test_embed_on_a_disk_that_others_fill_ends_with_a_sentence_and_goes_on(
    call: Call, made: Path, embed_options: tuple[str, ...], tmp_path: Path, disk: Path
) -> None:
    store = disk / "store.zarr"
    words = ("embed", made / "data", store, *embed_options, "--block-rows", "1", "--index-folder", tmp_path / "index")

    def fill() -> None:
        wait_until(store.exists, seconds=60, every=0.001)
        with contextlib.suppress(OSError), (disk / "theirs").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    other = threading.Thread(target=fill)
    other.start()
    full = call(*words)
    other.join()
    assert full.exit_code == 1, full.output
    assert full.stderr.splitlines()[-1].startswith("Error: The disk is full")
    assert "free some space. Run the same command with --resume to continue." in full.stderr
    (disk / "theirs").unlink()
    finished = call(*words, "--resume")
    assert finished.exit_code == 0, finished.output
    assert call("store", "verify", store).exit_code == 0
    assert not list(store.rglob("*.partial"))
    whole = open_store(made / "teacher.zarr")["train"]
    for view in range(len(whole.views)):
        np.testing.assert_array_equal(open_store(store)["train"].view(view), whole.view(view))


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_embed_keeps_its_blocks_and_is_resumed(
    call: Call,
    made: Path,
    embed_options: tuple[str, ...],
    tmp_path: Path,
    on_progress: OnProgress,
    sent: signal.Signals,
    exit_code: int,
) -> None:
    """The signal comes when progress is reported after the first committed block."""
    store = tmp_path / "store.zarr"
    words = ("embed", made / "data", store, *embed_options, "--views", "4", "--block-rows", "2")
    records = "train/embeddings/commits/*/*.json"
    with on_progress(lambda title: list(store.glob(records)) and signal.raise_signal(sent)):
        ended = call(*words)
    assert ended.exit_code == exit_code, ended.output
    assert ended.stderr.splitlines()[-1] == "Stopped. Run the same command with --resume to continue."
    assert "Traceback" not in ended.stderr
    before = open_store(store)["train"]
    assert 0 < sum(before.committed_blocks(view) for view in range(5)) < 5 * before.block_count
    assert not store.with_name("store.zarr.lease").exists()
    assert call(*words, "--resume").exit_code == 0
    assert call("store", "verify", store).exit_code == 0


def test_progress_elsewhere_than_on_a_terminal_is_lines(
    call: Call, made: Path, embed_options: tuple[str, ...], tmp_path: Path
) -> None:
    answer = call("embed", made / "data", tmp_path / "store.zarr", *embed_options)
    assert answer.exit_code == 0, answer.output
    index_train, index_val, embedded = answer.stderr.splitlines()
    assert re.fullmatch(r"index train: 24 images in \d+\.\d s", index_train)
    assert re.fullmatch(r"index val: 8 images in \d+\.\d s", index_val)
    assert re.fullmatch(r"embed: 80 views in \d+\.\d s", embedded)
    assert answer.stdout.splitlines()[0].endswith("store.zarr: train, 24 images, 3 views of 16 features")


def test_progress_on_a_terminal_is_a_bar_with_rate_and_time(
    made: Path, embed_options: tuple[str, ...], tmp_path: Path
) -> None:
    words = ("embed", made / "data", tmp_path / "store.zarr", *embed_options, "--threads", "1")
    shown = shown_on_terminal(*words, TERM="xterm", COLUMNS="120")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"embed +━+ +80/80 +[\d,]+ views/s +0:00:\d\d", text), text


def test_lines_tell_the_rate_of_this_run_not_of_what_a_resumed_one_had_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress_ssl.cli import progress

    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.TerminalProgress().track("distill small", 20_000) as advance:
        advance(10_000)  # done before
        now = 100.0
        advance(1_000)
    line, _ = capsys.readouterr().err.splitlines()
    assert line == "distill small: 11,000 of 20,000 images, 10 images/s, 0:15:00 left"


def test_store_info_says_what_it_holds(call: Call, made: Path) -> None:
    shown = call("store", "info", made / "teacher.zarr").stdout
    assert "format version 1, complete" in shown
    assert "conv4-16, untrained (conv4-16), 16 features, float32, weights " in shown
    assert "data, 32 images" in shown
    assert "24 images (0 bad), 2 classes, 3 views (evaluation 16 px, crop-flip 16 px)" in shown


def test_store_info_counts_the_blocks_of_an_unfinished_store(call: Call, workplace: Path) -> None:
    (workplace / "teacher.zarr" / "train" / "embeddings" / "commits" / "1.json").unlink()
    assert "12 of 18 blocks done" in call("store", "info", "teacher.zarr").stdout


def test_store_info_as_json_is_json_alone(call: Call, made: Path) -> None:
    description = json.loads(call("store", "info", made / "teacher.zarr", "--json").stdout)
    assert description["splits"]["train"]["samples"] == 24
    assert description["splits"]["train"]["views_complete"] == 3
    assert description["teacher"]["architecture"] == "conv4-16"


def test_store_verify_passes_what_embed_wrote(call: Call, made: Path) -> None:
    result = call("store", "verify", made / "teacher.zarr")
    assert result.exit_code == 0
    assert result.stdout.endswith("ok\n")


def test_store_verify_names_the_part_with_a_flipped_byte(call: Call, workplace: Path) -> None:
    part = next((workplace / "teacher.zarr" / "train" / "embeddings" / "c" / "1").rglob("0/0"))
    content = bytearray(part.read_bytes())
    content[5] ^= 1
    part.write_bytes(content)
    result = call("store", "verify", "teacher.zarr")
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert part.relative_to(workplace).as_posix() in first
    assert "has other content than was committed" in first
    assert last.endswith("failed")


def test_store_verify_names_a_part_that_is_missing_and_a_view_that_is_not_complete(call: Call, workplace: Path) -> None:
    split = workplace / "teacher.zarr" / "train"
    (split / "label" / "c" / "0").unlink()
    (split / "embeddings" / "commits" / "2.json").unlink()
    result = call("store", "verify", "teacher.zarr")
    assert result.exit_code == 1
    assert "teacher.zarr/train/label/c/0' is missing" in result.stdout
    assert "train, view 2: 0 of 6 blocks are committed" in result.stdout


def test_evaluate_prints_a_table_and_where_the_result_is(
    call: Call, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = call("evaluate", "teacher.zarr", "--labels-per-class", "3", "--labels-per-class", "1")
    assert result.exit_code == 0, result.output
    assert "NN, 1 label a class" in result.stdout
    assert result.stdout.index("NN, 1 label ") < result.stdout.index("NN, 3 labels")
    path = Path(result.stdout.splitlines()[-1])
    assert json.loads(path.read_text())["network"]["architecture"] == "conv4-16"


def test_student_is_scored_from_its_run(call: Call, workplace: Path) -> None:
    result = call("evaluate", "student", "--data", "data")
    assert result.exit_code == 0, result.output
    assert "student" in result.stdout
    assert (workplace / "student" / "nearest-neighbour.json").is_file()


def test_pretrained_run_is_a_teacher(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    options = ("--arch", "conv4-16", "--epochs", "1", "--batch-size", "8", "--size", "16", "--resize", "16")
    assert call("pretrain", "data", "teacher", *options).exit_code == 0
    result = call("embed", "data", "second.zarr", *embed_options, "--teacher", "teacher")
    assert result.exit_code == 0, result.output
    assert open_store("second.zarr").attributes["teacher"]["name"] == "teacher"
