"""A disk that fills up at random moments of ``embed``: what is read of the store then, and after there is space again.

python -m tests.reliability.disk_full --count 20 [--seed 0]      (as root: it mounts a small tmpfs)

Another program takes all that is left of the disk. The run has to end with one sentence; all rows are read and
compared with those of a store that was made undisturbed. Then the space is given back, and the run is gone on with.
"""

import contextlib
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.pipeline.embed.conftest import write_images
from tests.reliability.forked import asked, ended, forget, one_run, said_by, start_embed, truth_at
from tests.reliability.options import parser
from tests.reliability.truth import Answers, committed, damage_found, files, read_everything

IMAGES, MIB = 100, 4


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(file: Path) -> None:
    """Take all that is left, to the last byte."""
    with file.open("wb", buffering=0) as opened:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while opened.write(bytes(size)) == size:
                    pass


def main(count: int, seed: int) -> None:
    """Print how the runs went."""
    draw, total, counts = random.Random(seed), Answers(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk") as disk:
        data = write_images(Path(folder) / "data", train=IMAGES, val=2)
        whole, store = Path(folder) / "whole" / "store.zarr", disk / "lab" / "store.zarr"
        for place in (whole, store):
            place.parent.mkdir()
        for _ in range(2):  # the first indexes the images
            seconds = one_run(data, store)
            forget(store)
        one_run(data, whole)
        truth, right_files, before = asked(truth_at, whole), files(whole), set()
        while counts["runs that a full disk ended"] < count:
            process = start_embed(data, store, "--resume")
            time.sleep(draw.uniform(0, 0.6 * seconds))
            fill(disk / "taken")
            code = ended(process)
            last = said_by(data).read_text().splitlines()[-1:] or ["no word"]
            now = committed(store)
            total.add(asked(read_everything, store, truth))
            counts["records lost"] += len(before - now)
            before = now
            (disk / "taken").unlink()
            if code:
                counts["runs that a full disk ended"] += 1
                counts["of them with a sentence"] += last[0].startswith("Error: ")
                print(last[0].replace(str(disk), "DISK"), flush=True)
            else:
                counts["stores finished"] += 1
                counts["stores with other bytes"] += files(store) != right_files
                counts["stores with damage"] += bool(asked(damage_found, store))
                forget(store)
                before = set()
        counts["stores finished"] += ended(start_embed(data, store, "--resume")) == 0
        counts["stores with other bytes"] += files(store) != right_files
    print(
        dict(counts), f"rows read right {total.right:,}, wrong {total.wrong}, errors {dict(total.refused)}", flush=True
    )


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=20).parse_args()))
