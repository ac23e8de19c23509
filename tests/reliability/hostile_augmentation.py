"""Values that no store has, in a store whose checksums fit, as an adversary would write them: who notices?

python -m tests.reliability.hostile_augmentation --count 200 [--seed 0]

Each is one parameter, embedding, label, size, status or description of a view. ``store verify`` has to name it;
``distill`` has to refuse it, or to train the same student as without it, where it reads nothing of it. The memory of
the process is measured.
"""

import hashlib
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from click.testing import CliRunner

from compress_ssl.cli.main import main as compress_ssl
from compress_ssl.storage import LocalPath, open_store
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.writer import open_root
from tests.pipeline.embed.conftest import write_images
from tests.reliability.forked import WORDS
from tests.reliability.options import parser

IMAGES, VIEWS = 40, 3
HUGE: tuple[float, ...] = (1e9, -1e9, 1e38, -65_536, 100_000, float("nan"), float("inf"), -float("inf"))
SAMPLES: dict[str, tuple[Any, ...]] = {
    "label": (2, -2, 10**6, 2**31 - 1),
    "status": (3, 255),
    "image_size": ([0, 24], [-1, -1], [10**9, 10**9], [2**31 - 1, 1]),
}
DESCRIPTIONS: dict[str, tuple[Any, ...]] = {
    "size": (0, -1, 7, 17, 10**9, 2**14 + 1, "16", None, 16.5),
    "seed": (-1, 2**64, 1.5, "seed"),
    "interpolation": ("nearest", "", 5, None),
    "policy": (None, {}, [], "moco-v2", {"name": "of tomorrow"}, {"name": "ten-crop"}),
    "policy.resize": (0, -5, 7, 100_000, 10**9, "20"),
    "policy.name": ("of tomorrow", "", 7, None),
    "policy.scale": ([-1, 1], [0.5], "all", [1, 0.1], [1e400, 1]),
    "policy.hue": (1e9, -1, "red", None),
    "policy.surprise": (1,),
}


def forge(store: Path, array: str, index: tuple[int, ...], value: Any) -> None:
    """Write a value into an array of ``train``, and correct the records of all parts."""
    make_writable(store)
    open_root(LocalPath(store))[f"train/{array}"][index] = value
    for manifest in (store / "train/embeddings/commits").glob("*.json"):
        records = json.loads(manifest.read_text())
        for record in records.values():
            for key, part in record.items():
                if (file := store / "train" / key).is_file():
                    content = file.read_bytes()
                    part.update(size=len(content), xxh3_64=xxhash.xxh3_64_hexdigest(content))
        manifest.write_text(json.dumps(records))


def describe(store: Path, view: int, name: str, value: Any) -> None:
    """Change the description of a view; a dot is before the name of an option of its policy."""
    make_writable(store)
    file = store / "train/zarr.json"
    content = json.loads(file.read_text())
    table, _, option = name.rpartition(".")
    described = content["attributes"]["views"][view]
    (described[table] if table else described)[option] = value
    file.write_text(json.dumps(content))


def make_writable(store: Path) -> None:
    for file in store.rglob("*"):
        file.chmod(file.stat().st_mode | 0o200)


def parameter(store: Path, draw: random.Random) -> str:
    view, row, column, value = (draw.choice(each) for each in (range(VIEWS), range(IMAGES), COLUMNS, HUGE))
    forge(store, "augmentation", (view, row, COLUMNS.index(column)), value)
    return f"view {view}, row {row}, {column} = {value}"


def embedding(store: Path, draw: random.Random) -> str:
    view, row, value = draw.randrange(VIEWS), draw.randrange(IMAGES), draw.choice(HUGE[-3:])
    forge(store, "embeddings", (view, row, draw.randrange(16)), value)
    return f"view {view}, row {row}, an embedding with {value}"


def sample(store: Path, draw: random.Random) -> str:
    name, row = draw.choice(sorted(SAMPLES)), draw.randrange(IMAGES)
    value = draw.choice(SAMPLES[name])
    forge(store, name, (row,), value)
    return f"row {row}, {name} = {value}"


def description(store: Path, draw: random.Random) -> str:
    view, name = draw.randrange(VIEWS), draw.choice(sorted(DESCRIPTIONS))
    if view == 0 and name in ("seed", "policy.scale", "policy.hue", "policy.surprise"):  # view 0 has none
        view = 1
    if view > 0 and name == "policy.resize":  # a random view has none, and none is expected of one
        view = 0
    value = draw.choice(DESCRIPTIONS[name])
    describe(store, view, name, value)
    return f"view {view}, {name} = {value}"


Attack = Callable[[Path, random.Random], str]
ATTACKS: dict[str, Attack] = {
    "a parameter": parameter, "an embedding": embedding, "a sample": sample, "a view's description": description
}  # fmt: skip


class Outcome(NamedTuple):
    attack: str
    verify: str
    distill: str
    memory: int  # MiB of the process at most
    said: str


def told(answer: Any, right: bool) -> str:
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        return "traceback"
    if answer.exit_code == 0:
        return "same" if right else "SILENT"
    return "refused" if "'" in answer.output else "NO SENTENCE"


def student(store: Path, data: Path, run: Path, renderer: str) -> tuple[Any, str]:
    """Train for two epochs; how it ended, and the weights' hash."""
    words = ["--student", "conv4-16", "--epochs", "2", "--batch-size", "8", "--bank-size", "16", "--threads", "1"]
    answer = CliRunner().invoke(
        compress_ssl, ["distill", str(store), str(data), str(run), *words, "--renderer", renderer]
    )
    model = run / "model.safetensors"
    return answer, hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else ""


def attacked(whole: Path, data: Path, number: int, seed: int, attack: Attack, right: dict[str, str]) -> Outcome:
    """Attack a copy of a store, verify it and train from it."""
    torch.set_num_threads(1)
    draw, renderer = random.Random(f"{seed} {number}"), ("dali", "torchvision")[number % 2]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.zarr"
        shutil.copytree(whole, store)
        what = attack(store, draw)
        verified = CliRunner().invoke(compress_ssl, ["store", "verify", str(store)])
        answer, weights = student(store, data, Path(folder) / "run", renderer)
        outcomes = told(verified, right=False), told(answer, right=weights == right[renderer])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    last = (answer.output.strip() or verified.output.strip()).splitlines()[-1]
    return Outcome(what, *outcomes, memory, last.replace(folder, "FOLDER"))


def prepared(folder: Path) -> dict[str, str]:
    """Embed images into a store; the hashes of the students without an attack, by renderer."""
    data = write_images(folder / "data", train=IMAGES, val=2)
    made = CliRunner().invoke(compress_ssl, ["embed", str(data), str(folder / "store.zarr"), *WORDS])
    assert made.exit_code == 0, made.output
    assert np.isfinite(open_store(folder / "store.zarr")["train"].view(0)).all()
    return {each: student(folder / "store.zarr", data, folder / each, each)[1] for each in ("dali", "torchvision")}


def main(count: int, seed: int) -> Counter[str]:
    """Print what went wrong, and a line for each kind of attack."""
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as made, multiprocessing.get_context("spawn").Pool(1) as pool:
        folder = Path(made)
        right = pool.apply(prepared, (folder,))
        for kind, attack in ATTACKS.items():
            counts, most = Counter[str](), 0
            for number in range(count // len(ATTACKS)):
                outcome = pool.apply(attacked, (folder / "store.zarr", folder / "data", number, seed, attack, right))
                counts.update([f"verify: {outcome.verify}", f"distill: {outcome.distill}"])
                most = max(most, outcome.memory)
                if outcome.verify != "refused" or outcome.distill not in ("refused", "same"):
                    print(f"{kind}: {outcome}", flush=True)
            print(f"{kind}: {dict(counts)}, at most {most:,} MiB of memory", flush=True)
            total += counts
        pool.close()
        pool.join()
    return total


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=200).parse_args()))
