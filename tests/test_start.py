"""What a command loads: no library that it does not use, for that takes longer than its work (help: test_imports.py).

torch's compiler (``torch._dynamo``) takes as long as torch itself. torchvision brings it, and so does whatever trains:
torch's optimizers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

NEVER = {"timm", "sklearn", "scipy", "dask", "distributed", "matplotlib", "onnx", "boto3", "obstore"}

PROGRAM = """
import json, sys
from compress_ssl.cli.main import main
for words in json.loads(sys.argv[1]):
    main(words, standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight images in ``photographs``."""
    folder = tmp_path_factory.mktemp("start")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(4):
            path = folder / "photographs" / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return folder


EMBED = "embed photographs teacher.zarr --teacher random/conv4-16 --size 32 --resize 32 --views 2"
DISTILL = "distill teacher.zarr photographs run --student conv4-16 --epochs 1 --batch-size 4 --bank-size 4 --overwrite"


def loaded(work: Path, *commands: str) -> set[str]:
    """Run commands in a new process; return the names of the modules that it has loaded then."""
    words = json.dumps([command.split() for command in commands])
    program, ours = [sys.executable, "-c", PROGRAM, words], {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(program, cwd=work, env=ours, capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_what_runs_a_network_of_ours_loads_no_compiler_and_what_looks_at_a_store_no_torch(work: Path) -> None:
    assert not loaded(work, EMBED, "evaluate knn teacher.zarr") & {*NEVER, "torch._dynamo", "torchvision"}
    assert not loaded(work, "store info teacher.zarr", "store list .", "--version") & {*NEVER, "torch", "PIL", "h5py"}
    assert not loaded(work, DISTILL) & {*NEVER, "torchvision", "faiss"}
