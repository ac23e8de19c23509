"""What three students cost in one pass, and one after the other: CPU seconds, where decoding is the bound.

python tests/benchmarks/together.py DATA        photographs in DATA/train; prints rows for docs/benchmarks.md
"""

import sys
import tempfile
import time
from pathlib import Path

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings

SIZE, EPOCHS, BATCH, ROUNDS = 64, 3, 80, 3
STUDENTS = {"2q": "compress-2q", "1q": "compress-1q", "2q-warm": "compress-2q"}


def students(store: Path, data: Path, folder: Path) -> list[DistillSettings]:
    """Three students of four layers, with an objective or a temperature of their own."""
    return [
        DistillSettings(
            store=store,
            data=data,
            run=folder / name,
            student="conv4-16",
            objective=objective,
            temperature=0.07 if name == "2q-warm" else 0.04,
            epochs=EPOCHS,
            batch_size=BATCH,
            bank_size=512,
            precision="bfloat16",
            threads=1,
        )
        for name, objective in STUDENTS.items()
    ]


def measure(passes: list[list[DistillSettings]]) -> tuple[float, float]:
    """CPU seconds and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    for together in passes:
        distill_together(together, Silent())
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Measure both ways in turns, and print the medians."""
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = {"teacher": "random/conv4-64", "size": SIZE, "resize": SIZE, "split": ("train",), "views": EPOCHS}
        embed(EmbedSettings(data=data, store=folder / "teacher.zarr", **teacher), Silent())
        rows: dict[str, list[tuple[float, float]]] = {"one after the other": [], "in one pass": []}
        for number in range(ROUNDS):
            for name, seconds in rows.items():
                chosen = students(folder / "teacher.zarr", data, folder / f"{name}-{number}")
                seconds.append(measure([[each] for each in chosen] if name == "one after the other" else [chosen]))
    medians = {name: sorted(seconds)[ROUNDS // 2] for name, seconds in rows.items()}
    reference = medians["one after the other"][0]
    print("| three students | CPU, s | wall, s | CPU, relative |\n| --- | --- | --- | --- |")
    for name, (cpu, wall) in medians.items():
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {cpu / reference:.2f} |")


if __name__ == "__main__":
    main()
