"""One step of CompRess's objective against its bare matrix products and the published way: CPU time and memory.

python tests/benchmarks/objective.py        B 256, K 128,000; prints rows for docs/benchmarks.md

The published way (UMBCvision/CompRess, nn/compress_loss.py at b9ec6ea7a303) clones the banks at every step, and takes
softmax, log_softmax and kl_div of whole (B, K) similarities. Memory is the peak above banks and inputs, measured in a
process of its own for each way.
"""

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from compress_ssl.pipeline.distill.objectives.bank_divergence import bank_divergence

TEMPERATURE = 0.04
CASES = {"2q": (2048, 512), "1q": (2048, 2048), "1q, wide": (8192, 8192)}  # dimensions of teacher and student

Step = Callable[[Tensor, Tensor, Tensor, Tensor], object]


def ours(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> None:
    bank_divergence(teacher, queries, teacher_bank, student_bank, TEMPERATURE)[0].backward()


def published(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> Tensor:
    teacher_queue = teacher_bank.clone()
    student_queue = teacher_queue if student_bank is teacher_bank else student_bank.clone()
    student = (torch.mm(student_queue.detach(), queries.T).T / TEMPERATURE).squeeze().contiguous()
    target = (torch.mm(teacher_queue.detach(), teacher.T).T / TEMPERATURE).squeeze().contiguous()
    loss = kl_div(log_softmax(student, dim=1), softmax(target, dim=1), reduction="batchmean")
    loss.backward()
    return loss


def bare(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> None:
    with torch.no_grad():
        teacher @ teacher_bank.T
        (queries @ student_bank.T) @ student_bank


WAYS: dict[str, Step] = {"bare": bare, "ours": ours, "published": published}


def inputs(case: str, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    dim, student_dim = CASES[case]
    teacher_bank = normalize(torch.randn(size, dim), dim=1)
    student_bank = teacher_bank if student_dim == dim else normalize(torch.randn(size, student_dim), dim=1)
    teacher, queries = (normalize(torch.randn(batch, width), dim=1) for width in CASES[case])
    return teacher, queries.requires_grad_(), teacher_bank, student_bank


def peak_memory() -> int:
    """Return this process's largest resident memory since ``/proc/self/clear_refs`` was written to, in bytes."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(peak)


def memory(way: str, case: str, batch: int, size: int) -> int:
    given = inputs(case, batch, size)
    WAYS[way](*(tensor[:2] for tensor in given[:2]), *given[2:])  # threads, libraries, the queries' gradient
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    WAYS[way](*given)
    return peak_memory() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--bank-size", type=int, default=128_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    size = options.batch_size, options.bank_size
    torch.set_num_threads(1)
    print("| objective | dimensions | bare, CPU s | ours ÷ bare | ours ÷ published | MB | MB ÷ published |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case, dims in CASES.items():
        with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
            megabytes = {way: pool.apply(memory, (way, case, *size)) / 1e6 for way in ("ours", "published")}
        given = inputs(case, *size)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.repeats + 1):
            for way, step in WAYS.items():
                begun = time.process_time()
                step(*given)
                seconds[way].append(time.process_time() - begun)
        bare_s, ours_s, published_s = (statistics.median(each[1:]) for each in seconds.values())
        print(
            f"| {case} | {dims[0]}, {dims[1]} | {bare_s:.2f} | {ours_s / bare_s:.2f} | {ours_s / published_s:.2f} | "
            f"{megabytes['ours']:.0f} | {megabytes['ours'] / megabytes['published']:.2f} |",
            flush=True,
        )
        del given


if __name__ == "__main__":
    main()
