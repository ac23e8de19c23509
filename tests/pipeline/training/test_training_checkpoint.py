"""Runs that are resumed from files that are damaged, or of anything else: a sentence, and never other weights."""

import io
import json
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.storage.errors import StoreError
from tests.pipeline.training.tiny_loop import batches, run_loop


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run killed in its second of three epochs, after the checkpoint at step 2 of 4."""

    def dying(epoch: int, first_step: int) -> Any:
        for step, batch in enumerate(batches(epoch, first_step), first_step):
            if (epoch, step) == (1, 3):
                raise Killed
            yield batch

    with pytest.raises(Killed):
        run_loop(tmp_path / "run", batches=dying, checkpoint_minutes=1e-9)
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == 3
    return tmp_path / "run"


def test_flipped_bits_of_a_checkpoint_never_give_other_weights(run: Path, tmp_path: Path) -> None:
    expected, draw, refused = run_loop(tmp_path / "whole").state_dict(), random.Random(0), 0
    files = {path: path.read_bytes() for path in run.iterdir()}
    for _ in range(60):
        for path, content in files.items():
            path.write_bytes(content)
        damaged = bytearray(files[run / "checkpoint.pt"])
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (run / "checkpoint.pt").write_bytes(damaged)
        try:
            found = run_loop(run, resume=True).state_dict()
        except InputError:
            refused += 1
        else:
            assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert refused > 20  # most of a small checkpoint is padding, and what zip does not need


Change = Callable[[dict[str, Any]], object]
WRONG: dict[str, Change] = {
    "modules": lambda state: state.update(modules=[]),
    "best": lambda state: state.pop("best"),
    r"epoch 1000000000, step 1 of 3 epochs of 4 steps": lambda state: state.update(epoch=10**9, step=1),
    r"epoch 1, step 1000000000 of 3": lambda state: state.update(step=10**9),
    "epoch 3, step 1 of": lambda state: state.update(epoch=3, step=1),
    "epoch": lambda state: state.update(epoch=-1),
    "step": lambda state: state.update(step="1"),
    "scaler.scale": lambda state: state.update(scaler={"scale": [1]}),
    "'state'": lambda state: state.update(optimizer={}),
    "optimizer has momentum_buffer of other shapes": lambda state: state["optimizer"]["state"][1].update(
        momentum_buffer=torch.zeros(7)
    ),
    "optimizer has exp_avg of": lambda state: state["optimizer"]["state"].update({1: {"exp_avg": torch.zeros(5)}}),
    "pending_metrics.sums.loss": lambda state: state["pending_metrics"].update(sums={"loss": 1.0}),
    r"pending_metrics \(sums of scalars": lambda state: state["pending_metrics"].update(sums={"loss": torch.zeros(2)}),
    "network.0.bias is not finite": lambda state: state["modules"]["network.0.bias"].fill_(torch.nan),
    "loading state_dict": lambda state: state["modules"].update({"network.0.bias": torch.zeros(4)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_checkpoint_that_holds_something_else_is_refused_in_a_sentence(run: Path, wrong: str) -> None:
    state = torch.load(run / "checkpoint.pt")
    WRONG[wrong](state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (run / "checkpoint.pt").write_bytes(buffer.getvalue())
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises((InputError, StoreError), match=rf"run.*{wrong}.*start again with --overwrite\.$"):
        run_loop(run, resume=True)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl", "settings.json"])
def test_pipe_in_the_place_of_a_file_is_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises((InputError, StoreError), match=r"not a (regular file|run)"):
        run_loop(run, resume=True)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"epochs": 1e999', "\0"], ids=["deep", "list", "cut", "nul"])
def test_damaged_settings_are_named(run: Path, content: str) -> None:
    (run / "settings.json").write_text(content)
    with pytest.raises(StoreError, match=r"settings\.json' .*; restore it, or start again with --overwrite\.$"):
        run_loop(run, resume=True)


def test_damaged_lines_of_metrics_are_left_out_and_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    assert json.loads(whole) | {"epoch": 0, "step": 4} == json.loads(whole)
    path.write_bytes(b"\xff{}\n" + b"[" * 10**5 + b"\n" + b'{"epoch": "x"}\n' + whole + b'{"epoch": 1, "st')
    with caplog.at_level(logging.WARNING):
        run_loop(run, resume=True)
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["epoch"] for line in path.read_bytes().splitlines()] == [0, 1, 2]
    assert [record.getMessage()[:6] for record in caplog.records] == ["Line 1", "Line 2", "Line 3"]
