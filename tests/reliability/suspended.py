"""Writers that are suspended until another one has taken their store, and wake up while it writes: is it all its own?

python -m tests.reliability.suspended --count 20 [--seed 0]     (as root, for namespaces; after ``make servers``)

A first ``embed`` is stopped at a random moment in a process namespace of its own, as in a container, and counts as gone
once its lease is old (here after a second). A second one overwrites the store with another seed, or resumes it; at a
random moment of it the first goes on. All rows of the store are compared with those of one made undisturbed.
"""

import contextlib
import ctypes
import os
import random
import signal
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from compress_ssl.storage import Place, location
from compress_ssl.storage.places import lease
from tests.pipeline.embed.conftest import write_images
from tests.processes import free_port
from tests.reliability.forked import asked, ended, said_by, start_embed, truth_at
from tests.reliability.options import parser
from tests.reliability.truth import Answers, Truth, damage_found, read_everything
from tests.servers import running, s3_command

IMAGES, RECORDS = 80, 120
OTHER_SEED = ("--seed", "7")
CLONE_NEWPID = 0x20000000  # of unshare(2)


@contextlib.contextmanager
def s3_bucket(folder: Path) -> Iterator[str]:
    """The URL of a bucket on a server of its own, and an environment that leads there."""
    port = free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_EC2_METADATA_DISABLED": "true", "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    request = urllib.request.Request(f"http://127.0.0.1:{port}/lab", method="PUT")
    with running(s3_command(port), folder / "requests.log", port), urllib.request.urlopen(request):
        yield "s3://lab"


def start_elsewhere(begin: Callable[[], int]) -> int:
    """Begin a process as the first of a namespace, so that others take its machine for another one."""
    read, write = os.pipe()
    if (between := os.fork()) == 0:
        if ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0:
            os.write(write, begin().to_bytes(4, "big"))
        os._exit(0)
    os.waitpid(between, 0)
    os.close(write)
    process = int.from_bytes(os.read(read, 4), "big")
    os.close(read)
    return process


def is_gone(process: int) -> bool:
    """Whether a process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_for(condition: Callable[[], object], process: int) -> None:
    """Wait until it comes true or the process has ended."""
    while not (condition() or is_gone(process)):
        time.sleep(0.005)


def lease_of(store: Place) -> bytes | None:
    """The writer's lease on a disk, of which no living holder is left to renew it."""
    return Path(f"{store}.lease").read_bytes() if store.is_local and Path(f"{store}.lease").exists() else None


def one_trial(data: Path, other: Path, store: Place, log: Path, draw: random.Random, resumes: bool) -> Counter[str]:
    """Suspend one writer, let another take the store, wake the first; how both ended."""

    def written() -> int:
        """Records that were written so far."""
        if store.is_local:
            return len(list(Path(str(store)).glob("train/embeddings/commits/*/*.json")))
        key = str(store).removeprefix("s3:/")
        return sum(f'"PUT {key}/train/embeddings/commits/' in line for line in log.read_text().splitlines())

    counts = Counter[str]()
    first = start_elsewhere(lambda: start_embed(data, str(store)))
    moment = draw.randrange(1, RECORDS - 10)
    wait_for(lambda: written() >= moment, first)
    time.sleep(draw.uniform(0, 0.03))
    if is_gone(first):
        return counts
    os.kill(first, signal.SIGSTOP)
    time.sleep(lease.STALE_SECONDS + 1.1)  # an object's time has whole seconds
    seed = () if resumes else OTHER_SEED
    before, taken = written(), lease_of(store)
    second = start_embed(other, str(store), "--resume" if resumes else "--overwrite", *seed)
    moment = draw.randrange(1, RECORDS - (before if resumes else 0) - 2)
    if store.is_local:
        wait_for(lambda: lease_of(store) != taken and written() >= moment, second)
    else:
        wait_for(lambda: written() - before >= moment, second)
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGCONT)
    code = ended(second)
    wait_for(lambda: False, first)
    said = said_by(data).read_text()
    counts["suspended"] += 1
    counts["first ended with its sentence"] += "was taken over by another writer" in said
    counts["tracebacks"] += sum("Traceback" in said_by(each).read_text() for each in (data, other))
    counts[f"second ended with {code}"] += 1
    if code:
        print(said_by(other).read_text().splitlines()[-1], flush=True)
        counts["then finished by --resume"] += ended(start_embed(other, str(store), "--resume")) == 0
    return counts


def suspend(
    root: Place, data: Path, other: Path, truths: list[Truth], log: Path, count: int, draw: random.Random
) -> None:
    """Print how the trials at one place went."""
    for resumes, truth in zip((True, False), truths, strict=True):
        counts, total = Counter[str](), Answers()
        while counts["suspended"] < count:
            store = root / uuid.uuid4().hex / "store.zarr"
            trial = one_trial(data, other, store, log, draw, resumes)
            if not trial:
                continue
            # A second writer that was refused has left the store to the first.
            answers = asked(read_everything, store, truth if trial["second ended with 0"] else truths[0])
            counts += trial
            counts["stores with wrong rows"] += bool(answers.wrong)
            counts["stores with damage"] += bool(asked(damage_found, store))
            total.add(answers)
            print(".", end="", flush=True)
        how = "resumed" if resumes else "overwritten with another seed"
        read = f"rows read right {total.right:,}, wrong {total.wrong:,}, errors {dict(total.refused)}"
        print(f"\n{root}, {how}: {dict(counts)}, {read}", flush=True)


def main(count: int, seed: int) -> None:
    """Print how the trials went."""
    lease.STALE_SECONDS, lease.HEARTBEAT_SECONDS = 1.0, 0.2  # in every process forked from this one
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary, s3_bucket(Path(temporary)) as bucket:
        folder = Path(temporary)
        data = write_images(folder / "data", train=IMAGES, val=2)
        other = folder / "other"  # the same images: each writer's last words are beside its own
        other.symlink_to(data)
        truths = []
        for name, words in (("zero", ()), ("seven", OTHER_SEED)):
            assert ended(start_embed(data, folder / name, *words)) == 0, said_by(data).read_text()
            truths.append(asked(truth_at, folder / name))
        for root in (location(folder), location(bucket)):
            suspend(root, data, other, truths, folder / "requests.log", count, draw)


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=20).parse_args()))
