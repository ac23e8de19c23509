"""Trainings that are suspended until another one has taken their run, and wake up while it trains: is it all its own?

python -m tests.reliability.suspended_run --count 20 [--seed 0]     (as root, for namespaces)

A first ``distill`` is stopped at a random moment as in ``suspended.py``. A second one resumes the run, or overwrites it
with another seed; at a random moment of it the first goes on. The weights are compared with those of a run made
undisturbed, and so are the steps in ``metrics.jsonl``.
"""

import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from compress_ssl.storage.places import lease
from tests.cli.conftest import DISTILL, EMBED, write_images
from tests.reliability.forked import ended, start
from tests.reliability.options import parser
from tests.reliability.suspended import OTHER_SEED, is_gone, start_elsewhere, wait_for

EPOCHS = 30
WORDS = ("distill", "teacher.zarr", "data")
SETTINGS = (*DISTILL, "--epochs", str(EPOCHS), "--threads", "1")


def rows(run: Path) -> list[tuple[int, int]]:
    """Epoch and step of each line of a run's metrics."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [(record["epoch"], record["step"]) for record in map(json.loads, lines)]
    return []


def one_trial(run: Path, truth: Path, draw: random.Random, words: tuple[str, ...]) -> Counter[str]:
    """Suspend one training, let another take the run, wake the first; how both ended."""
    first_said, second_said = (run.with_suffix(f".{name}") for name in ("first", "second"))
    first = start_elsewhere(lambda: start((*WORDS, str(run), *SETTINGS), first_said))
    lines = len(rows(truth))
    moment = draw.randrange(1, lines - 10)
    wait_for(lambda: len(rows(run)) >= moment, first)
    time.sleep(draw.uniform(0, 0.05))
    if is_gone(first):
        return Counter()
    os.kill(first, signal.SIGSTOP)
    time.sleep(lease.STALE_SECONDS + 0.1)
    before = 0 if "--overwrite" in words else len(rows(run))
    record = (run / "settings.json").stat().st_ino
    second = start((*WORDS, str(run), *SETTINGS, *words), second_said)
    moment = draw.randrange(before + 1, lines)
    taken = "--resume" in words
    wait_for(lambda: (taken or is_another(run, record)) and len(rows(run)) >= moment, second)
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    code = ended(second)
    wait_for(lambda: False, first)
    return Counter(
        {
            "suspended": 1,
            "first ended with its sentence": "was taken over by another writer" in first_said.read_text(),
            "tracebacks": sum("Traceback" in said.read_text() for said in (first_said, second_said)),
            f"second ended with {code}": 1,
            "metrics of other steps": rows(run) != rows(truth),
            "other weights": (run / "model.safetensors").read_bytes() != (truth / "model.safetensors").read_bytes(),
        }
    )


def is_another(run: Path, record: int) -> bool:
    """Whether a run is not the one whose settings file this was."""
    with contextlib.suppress(FileNotFoundError):
        return (run / "settings.json").stat().st_ino != record
    return False


def main(count: int, seed: int) -> None:
    """Print how the trials went."""
    lease.STALE_SECONDS, lease.HEARTBEAT_SECONDS = 1.0, 0.2  # in every process forked from this one
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_images(Path("data"))
        assert ended(start(("embed", "data", "teacher.zarr", *EMBED), Path("said"))) == 0, Path("said").read_text()
        for words in (("--resume",), ("--overwrite", *OTHER_SEED)):
            draw, counts = random.Random(f"{seed} {words}"), Counter[str]()
            truth = Path(f"truth{words[0]}")
            begun = start((*WORDS, str(truth), *SETTINGS, *words[1:]), Path("said"))
            assert ended(begun) == 0, Path("said").read_text()
            while counts["suspended"] < count:
                run = Path("runs", f"{words[0].strip('-')}-{draw.getrandbits(32):x}")
                run.parent.mkdir(exist_ok=True)
                counts.update(one_trial(run, truth, draw, words))
                print(".", end="", flush=True)
            print(f"\ntaken by {' '.join(words)}: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=20).parse_args()))
