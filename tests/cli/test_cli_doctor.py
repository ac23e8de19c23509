"""The doctor finds this machine well, and says what is not."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def doctor(*words: str, cwd: Path, first: Path | None = None, hooks: bool = True) -> subprocess.CompletedProcess[str]:
    """Call the doctor in a process; ``first`` comes first where Python looks for modules.

    An editable install has hooks that find our modules behind somebody else's package; a wheel has not.
    """
    path = os.pathsep.join(map(str, filter(None, (first, ROOT, sysconfig.get_path("purelib")))))
    return subprocess.run(
        [sys.executable, *([] if hooks else ["-S"]), "-m", "compress_ssl.cli", "doctor", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_doctor_tries_every_stage_and_leaves_nothing(tmp_path: Path) -> None:
    answer = doctor("--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    result = json.loads(answer.stdout)
    assert result["ok"] is True
    checks = {check["name"]: check for check in result["checks"]}
    assert list(checks) == [
        *("processor", "gpu", "packages", "libraries", "uses", "disk"),
        *("images", "rendering", "embed", "distill", "evaluate"),
    ]
    assert checks["uses"]["facts"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert len(checks["gpu"]["facts"]["gpus"]) == torch.cuda.device_count()
    assert checks["libraries"]["facts"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert checks["packages"]["facts"]["paths"]["storage"] == str(ROOT / "storage")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What the doctor says where two libraries are broken and a package of somebody else's has our name."""
    folder = tmp_path_factory.mktemp("sick")
    (folder / "faiss.py").write_text("raise ImportError('libfaiss.so: cannot open shared object file')\n")
    (folder / "safetensors.py").write_text("raise ImportError('no tensor is safe')\n")
    metadata = folder / "warehouse-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: warehouse\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("storage\n")
    return doctor(cwd=folder, first=folder)


def test_broken_library_is_named_and_the_rest_is_still_tried(sick: subprocess.CompletedProcess[str]) -> None:
    assert sick.returncode == 1
    lines = sick.stdout.splitlines()
    assert "uses       failed:  ImportError: libfaiss.so: cannot open shared object file" in lines
    assert any(line.startswith("rendering  ok") for line in lines)
    assert lines[-1] == "Failed: uses, embed, distill, evaluate."
    assert "Traceback" not in sick.stderr


def test_stage_that_fails_ends_those_that_need_it(sick: subprocess.CompletedProcess[str]) -> None:
    lines = sick.stdout.splitlines()
    assert "embed      failed:  ImportError: no tensor is safe" in lines
    assert "distill    failed:  not tried, because embed failed" in lines
    assert "evaluate   failed:  not tried, because embed failed" in lines


def test_distribution_that_brings_a_package_of_our_names_is_a_warning(sick: subprocess.CompletedProcess[str]) -> None:
    assert "warning: 'warehouse' installs a package 'storage' too; use an environment without it." in sick.stdout


def test_package_of_somebody_else_in_place_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    answer = doctor(cwd=tmp_path, first=tmp_path, hooks=False)
    assert answer.returncode == 1
    assert f"Error: The package 'pipeline' is imported from '{tmp_path / 'pipeline'}', which is not" in answer.stderr
    assert "Traceback" not in answer.stderr
