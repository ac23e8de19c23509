"""A flipped bit in the files of a training: what a resumed training, and what reads the network, make of it.

python -m tests.reliability.flipped_files --count 40 [--seed 0]

A student is distilled, and killed in its second epoch. Each time one random bit of ``checkpoint.pt`` is flipped and the
run is resumed; and one of ``model.safetensors``, which is evaluated and exported. Refused is good, and so is a result
that is that of the whole file (what is flipped then pads records, or is a date); anything else is silent.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from compress_ssl.cli.main import main as command
from tests.cli.conftest import DISTILL, EMBED, TINY, write_images
from tests.reliability.options import parser

Outcome = dict[str, bytes]


def call(*words: str | Path) -> tuple[int, str]:
    """Exit code and last line."""
    result = CliRunner().invoke(command, [*map(str, words)], prog_name="compress-ssl")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return -1, repr(result.exception)
    return result.exit_code, result.output.splitlines()[-1]


def flip(path: Path, whole: bytes, draw: random.Random) -> int:
    bit = draw.randrange(8 * len(whole))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return bit


def try_out(name: str, path: Path, use: Callable[[], tuple[int, str, Outcome]], count: int, seed: int) -> None:
    """Print how ``use``, which returns exit code, last words and results, ended with flipped bits in a file."""
    draw, whole, counts = random.Random(f"{seed} {name}"), path.read_bytes(), Counter[str]()
    code, said, right = use()
    assert code == 0, said
    for _ in range(count):
        bit = flip(path, whole, draw)
        code, said, found = use()
        if code == 0 and found != right:
            counts["SILENT"] += 1
            print(f"{name}: bit {bit} of {8 * len(whole)}", flush=True)
        elif code in (1, 2) and said.startswith("Error: "):
            counts["refused"] += 1
        else:
            counts["same result" if code == 0 else f"ended with {code}: {said}"] += 1
    path.write_bytes(whole)
    print(f"{name}: {count} times, {dict(counts)}", flush=True)


def main(count: int, seed: int) -> None:
    """Print a line for each file and use."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_images(Path("data"))
        again = ("distill", "teacher.zarr", "data", "run", *DISTILL, "--threads", "1", "--resume")
        assert call("embed", "data", "teacher.zarr", *EMBED)[0] == 0
        assert call(*again, "--keep-every", "1")[0] == 0
        shutil.copy("run/epoch-0001/checkpoint.pt", "run/checkpoint.pt")  # as if killed in the second epoch
        before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}

        def resume() -> tuple[int, str, Outcome]:
            for path, content in before.items():
                if path.name != "checkpoint.pt" or path.parent != Path("run"):
                    path.write_bytes(content)
            code, said = call(*again)
            return code, said, {"network": Path("run/model.safetensors").read_bytes()}

        def evaluate() -> tuple[int, str, Outcome]:
            shutil.rmtree("scores", ignore_errors=True)
            code, said = call("evaluate", "run", "--data", "data", "--output", "scores", *TINY, "--threads", "1")
            features = {str(path): path.read_bytes() for path in Path("scores").rglob("c/*/*") if path.is_file()}
            return code, said, features

        def export() -> tuple[int, str, Outcome]:
            shutil.rmtree("exported", ignore_errors=True)
            code, said = call("export", "run", "exported", "--no-onnx")
            files = ("model.safetensors", "export.json")
            return code, said, {name: Path("exported", name).read_bytes() for name in files if not code}

        try_out("distill --resume of checkpoint.pt", Path("run/checkpoint.pt"), resume, count, seed)
        for use in (evaluate, export):
            try_out(f"{use.__name__} of model.safetensors", Path("run/model.safetensors"), use, count, seed)


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=40).parse_args()))
