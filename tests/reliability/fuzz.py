"""Files of every kind that the tool reads, mutated: each ends in the right rows or in one sentence.

python -m tests.reliability.fuzz --count 100 [--kind "recipes"] [--seed 0]

A case harms one real file (``mutations.py``), runs the command or function that reads it (``fuzz_kinds.py``) in this
process, and makes the file good again. Faults are a traceback, more than one line of error, a case of more than a
minute, other rows than were written, more than a gigabyte of memory, and any file changed that is not the output.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from compress_ssl.cli.errors import ending_of
from compress_ssl.storage.printable import printable
from tests.reliability.fuzz_files import Refused, prepare
from tests.reliability.fuzz_kinds import KINDS, Answer, Kind
from tests.reliability.mutations import put_special
from tests.reliability.options import parser

SECONDS = 60
BYTES = 2**30
SPECIAL = 0.05  # share of the cases in which the file becomes a folder, a FIFO, a link, ...
OWN = ("out", "caches")  # folders that a case may write to

ENVIRONMENT = {"HOME": "home", "AWS_EC2_METADATA_DISABLED": "true", "NETRC": "home/.netrc"}


class Hang(BaseException):
    """A case takes too long."""


def _ring(*_: object) -> None:
    raise Hang


def _files(victim: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of all files around a case but the one that is harmed and those that it may write."""
    found = {}
    for folder, below, names in os.walk(".."):
        if folder == "../work":
            below[:] = [name for name in below if name not in OWN]
        for name in names:
            status = os.lstat(path := f"{folder}/{name}")
            found[path] = status.st_size, status.st_mtime_ns, status.st_ino
    found.pop(f"../work/{victim}", None)
    return found


class Content(NamedTuple):
    """A file as it was."""

    content: bytes
    changed: int  # when, in nanoseconds

    @classmethod
    def of(cls, path: Path) -> "Content":
        """Read a file."""
        return cls(path.read_bytes(), path.stat().st_mtime_ns)

    def restore(self, path: Path) -> None:
        """Write it again, whatever is in its place."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(self.content)
        os.utime(path, ns=(self.changed, self.changed))


@contextlib.contextmanager
def harmed(victim: Path, kind: Kind, whole: Content, draw: random.Random) -> Iterator[str]:
    """Do harm to a file while the block runs; yields what was done."""
    if draw.random() < SPECIAL:
        done = put_special(victim, draw)
    else:
        mutate = draw.choice(kind.mutations)
        done = mutate.__name__
        with contextlib.suppress(ValueError):  # it is not JSON
            victim.write_bytes(mutate(whole.content, draw))
    try:
        yield done
    finally:
        whole.restore(victim)


def outcome(kind: Kind, truth: Answer) -> tuple[str, str]:
    """Read, and return a word for what came of it, with what is to be shown of a fault."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        answer = kind.read()
    except Hang:
        return "HANG", traceback.format_exc()
    except Refused as error:
        sentence = str(error)
        return ("refused", "") if sentence.startswith("Error: ") else ("NO SENTENCE", sentence)
    except Exception as error:  # noqa: BLE001 whatever is not in the table of endings would be a traceback
        ending = ending_of(error)
        if ending is None:
            return "TRACEBACK", traceback.format_exc()
        sentence = printable(ending.message(error, ""))
        return ("refused", "") if len(sentence.splitlines()) == 1 else ("NO SENTENCE", sentence)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree("out", ignore_errors=True)
        Path("out").mkdir()
    if 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) > BYTES:
        return "MEMORY", ""
    wrong = {name: found for name, found in answer.items() if truth.get(name, found) != found}
    if kind.checked and wrong:
        return "WRONG ROW", repr(wrong)[:500]
    return "read", ""


def fuzz(name: str, count: int, seed: int) -> Counter[str]:
    """Run so many cases of a kind in the prepared work folder; print faults; return the number of each outcome."""
    kind, draw, outcomes = KINDS[name], random.Random(f"{seed} {name}"), Counter[str]()
    paths = sorted({path for pattern in kind.files for path in Path().glob(pattern) if path.is_file()})
    victims = {path: Content.of(path) for path in paths}
    truth = kind.read()
    shutil.rmtree("out")
    Path("out").mkdir()
    for path, whole in victims.items():
        whole.restore(path)
    for number in range(count):
        victim = draw.choice(paths)
        before = _files(victim)
        with harmed(victim, kind, victims[victim], draw) as done:
            word, detail = outcome(kind, truth)
            if _files(victim) != before:
                word, detail = "OUTSIDE", str(dict(_files(victim).items() ^ before.items()))[:500]
            if word.isupper():
                kept = Path(tempfile.gettempdir(), f"fuzz-{name.replace(' ', '-')}-{seed}-{number}")
                if victim.is_file() and victim.stat().st_size < 2**24:
                    shutil.copyfile(victim, kept)
                print(f"{name}, case {number}, {victim} {done}: {word}\n{detail}\n(kept as {kept})", flush=True)
        outcomes[word] += 1
    return outcomes


def faults(outcomes: Counter[str]) -> dict[str, int]:
    """Return the outcomes that must not be."""
    return {word: number for word, number in outcomes.items() if word.isupper()}


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """Make the files of all kinds, in a folder that is the current one, and the user's home, inside the block."""
    here, environment = Path.cwd(), dict(os.environ)
    signal.signal(signal.SIGALRM, _ring)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        work = Path(folder, "work")
        work.mkdir()
        os.environ.update(
            {name: str(work / value) if "home" in value else value for name, value in ENVIRONMENT.items()}
        )
        try:
            prepare(work)
            KINDS["index caches"].read()  # writes them
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(environment)


def main(count: int, kind: str | None, seed: int) -> None:
    """Print a row of a table for each kind; expensive kinds get fewer cases."""
    print("| kind | cases | read | refused in one sentence | faults |\n| --- | --- | --- | --- | --- |")
    with workplace():
        for name in [kind] if kind else KINDS:
            outcomes = fuzz(name, count if kind else max(1, count // KINDS[name].cost), seed)
            wrong = ", ".join(f"{number} {word.lower()}" for word, number in faults(outcomes).items())
            print(
                f"| {name} | {outcomes.total()} | {outcomes['read']} | {outcomes['refused']} | {wrong or 0} |",
                flush=True,
            )


if __name__ == "__main__":
    options = parser(__doc__, count=100)
    options.add_argument("--kind", choices=KINDS)
    main(**vars(options.parse_args()))
