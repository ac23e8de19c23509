"""The doctor finds this machine well, and says what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import start_command

ROOT = Path(__file__).parents[2]


def test_doctor_tries_every_stage_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = start_command("doctor", "--json")
    assert process.wait() == 0, process.output + process.errors
    result = json.loads(process.output)
    assert result["ok"] is True
    checks = {check["name"]: check for check in result["checks"]}
    assert list(checks) == [
        *("processor", "gpu", "libraries", "uses", "disk"),
        *("images", "rendering", "embed", "distill", "evaluate"),
    ]
    assert checks["uses"]["facts"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert len(checks["gpu"]["facts"]["gpus"]) == torch.cuda.device_count()
    assert checks["libraries"]["facts"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What the doctor says where two libraries are broken: those that come first where Python looks for modules."""
    folder = tmp_path_factory.mktemp("sick")
    (folder / "faiss.py").write_text("raise ImportError('libfaiss.so: cannot open shared object file')\n")
    (folder / "safetensors.py").write_text("raise ImportError('no tensor is safe')\n")
    return subprocess.run(
        [sys.executable, "-m", "compress_ssl", "doctor"], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    )  # fmt: skip


@pytest.mark.slow
def test_broken_library_is_named_and_the_rest_is_still_tried(sick: subprocess.CompletedProcess[str]) -> None:
    assert sick.returncode == 1
    lines = sick.stdout.splitlines()
    assert "uses       failed:  ImportError: libfaiss.so: cannot open shared object file" in lines
    assert any(line.startswith("rendering  ok") for line in lines)
    assert lines[-1] == "Failed: uses, embed, distill, evaluate."
    assert "Traceback" not in sick.stderr


@pytest.mark.slow
def test_stage_that_fails_ends_those_that_need_it(sick: subprocess.CompletedProcess[str]) -> None:
    lines = sick.stdout.splitlines()
    assert "embed      failed:  ImportError: no tensor is safe" in lines
    assert "distill    failed:  not tried, because embed failed" in lines
    assert "evaluate   failed:  not tried, because embed failed" in lines
