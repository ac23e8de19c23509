"""The doctor finds this machine well, and says what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def doctor(*words: str, cwd: Path, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Call the doctor in a process; ``first`` comes first where Python looks for modules."""
    path = os.pathsep.join(map(str, filter(None, (first, ROOT))))
    return subprocess.run(
        [sys.executable, "-m", "cli", "doctor", *words],
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


def test_broken_library_is_named_and_the_rest_is_still_tried(tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError('libfaiss.so: cannot open shared object file')\n")
    answer = doctor(cwd=tmp_path, first=tmp_path)
    assert answer.returncode == 1
    lines = answer.stdout.splitlines()
    assert "uses       failed:  ImportError: libfaiss.so: cannot open shared object file" in lines
    assert any(line.startswith("distill    ok") for line in lines)
    assert lines[-1].startswith("Failed: uses")
    assert "Traceback" not in answer.stderr


def test_stage_that_fails_ends_those_that_need_it_only(tmp_path: Path) -> None:
    (tmp_path / "zarr.py").write_text("raise ImportError('no zarr for you')\n")
    answer = doctor("--json", cwd=tmp_path, first=tmp_path)
    assert answer.returncode == 1
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert checks["rendering"]["ok"] is True
    assert "no zarr for you" in checks["embed"]["detail"]
    assert checks["distill"]["detail"] == "not tried, because embed failed"
    assert checks["evaluate"]["detail"] == "not tried, because embed failed"


def test_distribution_that_brings_a_package_of_our_names_is_a_warning(tmp_path: Path) -> None:
    metadata = tmp_path / "warehouse-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: warehouse\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("storage\n")
    answer = doctor(cwd=tmp_path, first=tmp_path)
    assert answer.returncode == 0, answer.stdout
    assert "warning: 'warehouse' installs a package 'storage' too; use an environment without it." in answer.stdout


def test_package_of_somebody_else_in_place_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    answer = doctor(cwd=tmp_path, first=tmp_path)
    assert answer.returncode == 1
    assert f"Error: The package 'pipeline' is imported from '{tmp_path / 'pipeline'}', which is not" in answer.stderr
    assert "Traceback" not in answer.stderr
