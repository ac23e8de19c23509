"""SIGKILL of ``embed`` at random moments: what is read of the store after each, and whether ``--resume`` completes it.

python -m tests.reliability.killed_embed --count 100 [--seed 0]

A run is killed, gone on with, and killed again, until one ends before its moment; then a new store is begun. After
every kill all rows are read and compared with those of a store that was made undisturbed, and no record may be gone.
"""

import random
import tempfile
from collections import Counter
from pathlib import Path

from tests.pipeline.embed.conftest import write_images
from tests.reliability.forked import asked, ended, forget, killed, one_run, start_embed, truth_at
from tests.reliability.options import parser
from tests.reliability.truth import Answers, committed, damage_found, files, read_everything

IMAGES = 100


def main(count: int, seed: int) -> None:
    """Print how the kills went."""
    draw, total, kills = random.Random(seed), Answers(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        data = write_images(Path(folder) / "data", train=IMAGES, val=2)
        whole, store = Path(folder) / "whole" / "store.zarr", Path(folder) / "killed" / "store.zarr"
        for place in (whole, store):
            place.parent.mkdir()
        one_run(data, whole)  # indexes the images, and warms up
        forget(whole)
        seconds = one_run(data, whole)
        truth, right_files, before = asked(truth_at, whole), files(whole), set()
        print(f"an undisturbed run takes {seconds:.1f} s", flush=True)
        while kills["killed"] < count:
            process = start_embed(data, store, "--resume")
            was_killed = killed(process, draw.uniform(0, 0.7 * seconds))
            answers, now = asked(read_everything, store, truth), committed(store)
            total.add(answers)
            kills["killed"] += was_killed
            kills["records lost"] += len(before - now)
            kills["killed with some blocks committed"] += was_killed and bool(now)
            before = now
            if not was_killed:
                kills["stores finished"] += 1
                kills["stores with other bytes"] += files(store) != right_files
                kills["stores with damage"] += bool(asked(damage_found, store))
                forget(store)
                before = set()
        code = ended(start_embed(data, store, "--resume"))
        kills["stores finished"] += code == 0
        kills["stores with other bytes"] += files(store) != right_files
    print(
        dict(kills), f"rows read right {total.right:,}, wrong {total.wrong}, errors {dict(total.refused)}", flush=True
    )


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=100).parse_args()))
