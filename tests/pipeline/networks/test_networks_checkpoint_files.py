"""Checkpoint files of any origin: tensors are read, other classes become placeholders, no code of a file runs."""

import argparse
import enum
import hashlib
import os
import pathlib
import pickle
import struct
import subprocess
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.checkpoints.file import Placeholder, read_checkpoint_file

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


class Stage(enum.Enum):
    FIT = "fit"


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyperparameters in."""


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class CallsState(Calls):
    """As ``Calls``, but hides the call in the state of an object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return argparse.Namespace, (), {"inside": [Calls(*self.call[:1], *self.call[1])]}


def write(content: Any, file: Path, is_zip: bool) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file


@FORMATS
def test_classes_that_are_no_tensors_become_placeholders(is_zip: bool, tmp_path: Path) -> None:
    weights = OrderedDict(a=torch.arange(12.0).view(3, 4), b=torch.nn.Parameter(torch.ones(2)), c=torch.tensor(7))
    content = {
        "state_dict": weights,
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(path=pathlib.PurePosixPath("/x"))),
        "best_acc1": np.float64(70.8),
        "history": np.arange(3),
        "hyper_parameters": AttributeDict(width=4),
        "callbacks": {argparse.Namespace: {"best": torch.tensor(1.5)}, Stage.FIT: deque([1, 2], maxlen=3)},
        "counts": defaultdict(list, {"x": [1]}),
        "plain": [1, 2.5, None, True, "text", b"bytes", {1, 2}, 10**30, (1,)],
    }
    read = read_checkpoint_file(write(content, tmp_path / "published.pth.tar", is_zip)).content
    assert read["state_dict"].keys() == weights.keys()
    assert all(torch.equal(read["state_dict"][key], value) for key, value in weights.items())
    assert type(read["args"]) is type(read["best_acc1"]) is type(read["history"]) is Placeholder
    assert not hasattr(read["args"], "lr")
    assert read["hyper_parameters"] == {"width": 4}
    assert read["counts"] == {"x": [1]}
    assert [list(value) for value in read["callbacks"].values()] == [["best"], [1, 2]]
    assert read["plain"] == content["plain"]


@FORMATS
@pytest.mark.parametrize("how", [Calls, CallsState])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch MARK",)),
        (eval, ("open('MARK', 'w')",)),
        (exec, ("open('MARK', 'w')",)),
        (subprocess.Popen, (["touch", "MARK"],)),
        (getattr, (Calls(__import__, "os"), "system")),
        (Path.mkdir, (Path("MARK"),)),
        (Path.touch, (Path("MARK"),)),
    ],
    ids=["os.system", "eval", "exec", "subprocess", "import", "mkdir", "touch"],
)
def test_a_file_s_code_does_not_run(
    how: type[Calls], function: Callable[..., Any], arguments: Any, is_zip: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    payload = how(function, *arguments)
    pickle.loads(pickle.dumps(Calls(os.system, "touch MARK")))
    assert Path("MARK").exists(), "such a payload does run where a pickle is simply loaded"
    Path("MARK").unlink()
    file = write({"state_dict": {"w": torch.ones(2), "x": payload}}, tmp_path / "evil.pth", is_zip)
    with pytest.raises(
        InputError, match=r"evil.pth' (would run |is damaged, or holds objects other than tensors)"
    ) as caught:
        read_checkpoint_file(file)
    assert not Path("MARK").exists()
    assert "\n" not in str(caught.value)


@FORMATS
def test_a_call_that_stays_alone_becomes_a_placeholder(is_zip: bool, tmp_path: Path) -> None:
    """A function that only a trusting reader would look up is replaced like a class, and its call gives nothing."""
    file = write(
        {"w": torch.ones(2), "x": Calls(types.SimpleNamespace), "y": Calls(print, "MARK")}, tmp_path / "a", is_zip
    )
    read = read_checkpoint_file(file).content
    assert torch.equal(read["w"], torch.ones(2))
    assert type(read["x"]) is type(read["y"]) is Placeholder


def test_python_2_names_of_functions_are_refused_too(tmp_path: Path) -> None:
    """Protocol 2 writes ``__builtin__ eval``; so do files from Python 2."""
    file = write({"w": Calls(eval, "1")}, tmp_path / "old.pth", is_zip=False)
    assert b"c__builtin__\neval\n" in file.read_bytes()
    with pytest.raises(InputError, match=r"old.pth' would run \S*builtin\S*.eval when read; it was refused and"):
        read_checkpoint_file(file)


@FORMATS
def test_truncated_torch_file_is_one_sentence(is_zip: bool, tmp_path: Path) -> None:
    for share in [0.02, 0.3, 0.9, 0.999]:
        file = write(
            {"state_dict": {f"layer{i}.weight": torch.ones(50, 50) for i in range(20)}}, tmp_path / "moco.pth", is_zip
        )
        whole = file.read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            InputError, match=r"moco.pth' is damaged, or .*; download, copy or train it again"
        ) as caught:
            read_checkpoint_file(file)
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_said_to_be_so(tmp_path: Path) -> None:
    for content, what in [
        (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>", "a web page, such as a login"),
        (b"\n<HTML>403</HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (b"", "an empty file"),
        (b"\x93NUMPY\x01\x00", "a file that starts with b'"),
        (pickle.dumps({"w": 1}), "a pickle not written by torch"),
    ]:
        for name in ["swav.pth.tar", "model.safetensors"]:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(
                InputError, match=rf"{name}' is not a checkpoint but {what}.*; download, copy or train it again\.$"
            ):
                read_checkpoint_file(tmp_path / name)


def test_folder_and_missing_file_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"' is a folder; give a checkpoint file"):
        read_checkpoint_file(tmp_path)
    with pytest.raises(InputError, match=r"x.pth' does not exist; give a checkpoint file"):
        read_checkpoint_file(tmp_path / "x.pth")


def test_zip_of_another_program_is_one_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.pth.npz", a=np.ones(3))
    with pytest.raises(InputError, match=r"arrays.pth.npz' is damaged, or .*it has 0 files data.pkl"):
        read_checkpoint_file(tmp_path / "arrays.pth.npz")


def test_safetensors_header_that_promises_too_much_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{" + b" " * 100)
    with pytest.raises(InputError, match=r"a.safetensors' is a damaged safetensors file"):
        read_checkpoint_file(tmp_path / "a.safetensors")


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "weights.bin", {"format": "pt"})
    read = read_checkpoint_file(tmp_path / "weights.bin")
    assert torch.equal(read.content["w"], torch.ones(2))
    assert read.metadata == {"format": "pt"}
    assert read.sha256 == hashlib.sha256((tmp_path / "weights.bin").read_bytes()).hexdigest()
