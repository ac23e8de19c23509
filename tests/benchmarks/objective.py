"""A step of CompRess's objective.

Loss and gradient, in float32 on one thread, against the three matrix products alone (*bare*), and against the published
way (nn/compress_loss.py of UMBCvision/CompRess at b9ec6ea7a303), which clones the banks at every step and takes
softmax, log_softmax and kl_div of whole (B, K) similarities. Memory is the peak above banks and inputs. Time is linear
in B, so the widest case has a quarter of the batch. At K = 1,000,000 each way is called once, and the published one not
at all: banks and clones alone are more than most machines have, so the memory is compared with the clones. 1,000,000
rows of 8,192 features are 33 GB, and left out.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.memory import available_memory
from compress_ssl.pipeline.distill.objectives.bank_divergence import bank_divergence
from tests.benchmarks.measure import Way, cost_of, cpu_seconds, peak_memory, print_table, print_verdict, run

TEMPERATURE = 0.04
DRAWN = 8192  # rows of a bank that are drawn; the others repeat them
MOST_TIME, MOST_MEMORY = 1.1, 0.5  # of the bare products' time; of the published way's memory
ROUNDS = 2


class Case(NamedTuple):
    """Sizes of a step."""

    kind: str
    batch: int
    bank: int
    dim: int  # of the teacher
    student_dim: int

    @property
    def banks_bytes(self) -> int:
        """Bytes of the banks: one for both if their dimensions are equal."""
        return 4 * self.bank * (self.dim + (0 if self.student_dim == self.dim else self.student_dim))


CASES = (
    Case("2q", 256, 128_000, 2048, 512),
    Case("1q", 256, 128_000, 2048, 2048),
    Case("1q", 64, 128_000, 8192, 8192),
    Case("2q", 256, 1_000_000, 2048, 512),
    Case("1q", 256, 1_000_000, 2048, 2048),
)
LARGE = 1_000_000  # rows from which a case is called once
TOY = (Case("2q", 8, 512, 64, 16), Case("1q", 8, 512, 64, 64))


def ours(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> None:
    """Take our loss and its gradient."""
    bank_divergence(teacher, queries, teacher_bank, student_bank, TEMPERATURE)[0].backward()


def published(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> Tensor:
    """Return the loss as published, after its backward pass."""
    teacher_queue = teacher_bank.clone()
    student_queue = teacher_queue if student_bank is teacher_bank else student_bank.clone()
    student = (torch.mm(student_queue.detach(), queries.T).T / TEMPERATURE).squeeze().contiguous()
    target = (torch.mm(teacher_queue.detach(), teacher.T).T / TEMPERATURE).squeeze().contiguous()
    loss = kl_div(log_softmax(student, dim=1), softmax(target, dim=1), reduction="batchmean")
    loss.backward()
    return loss


def bare(teacher: Tensor, queries: Tensor, teacher_bank: Tensor, student_bank: Tensor) -> None:
    """Multiply only, as loss and gradient must."""
    with torch.no_grad():
        teacher @ teacher_bank.T
        (queries @ student_bank.T) @ student_bank


def bank_of(rows: int, dim: int) -> Tensor:
    """Return a bank of normalised rows."""
    drawn, bank = normalize(torch.randn(min(rows, DRAWN), dim), dim=1), torch.empty(rows, dim)
    for part in bank.split(DRAWN):
        part.copy_(drawn[: len(part)])
    return bank


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return teacher (B, D), queries (B, F), and their banks (K, D) and (K, F)."""
    torch.manual_seed(0)
    teacher_bank = bank_of(case.bank, case.dim)
    student_bank = teacher_bank if case.student_dim == case.dim else bank_of(case.bank, case.student_dim)
    teacher, queries = (normalize(torch.randn(case.batch, dim), dim=1) for dim in (case.dim, case.student_dim))
    return teacher, queries.requires_grad_(), teacher_bank, student_bank


class Found(NamedTuple):
    """What one case takes."""

    bare: float  # CPU seconds
    ours: float
    held: int  # bytes above the banks
    held_otherwise: int  # by the published way, or by its clones alone


def measured(case: Case) -> Found:
    """Measure one case."""
    given = inputs(case)
    ways: dict[str, Way] = {way.__name__: partial(way, *given) for way in (bare, ours)}
    for way in (bare, ours):
        way(given[0][:2], given[1][:2], *given[2:])  # libraries, and the threads of the backward pass
    held = peak_memory(ways["ours"])
    if case.bank >= LARGE:
        return Found(*(cost_of(way).cpu for way in ways.values()), held, case.banks_bytes)
    held_otherwise = peak_memory(partial(published, *given))
    return Found(*cpu_seconds(ways, ROUNDS).values(), held, held_otherwise)


def main(toy: bool) -> None:
    """Print the table and the verdicts."""
    prepare_device("cpu", 1, training=True)
    rows, times, shares, left_out = [], [], [], []
    for case in TOY if toy else CASES:
        name = f"{case.kind}, B {case.batch}, K {case.bank:,}, {case.dim:,} and {case.student_dim:,} features"
        needed = case.banks_bytes + 4 * 4 * case.batch * case.bank  # two matrices of (B, K) a way
        if needed > available_memory():
            left_out.append(f"- {name}: left out, for {needed / 1e9:.0f} GB are not free.")
            continue
        found = measured(case)
        times.append(found.ours / found.bare)
        shares.append(found.held / found.held_otherwise)
        otherwise = "clones" if case.bank >= LARGE else "published"
        share = f"{shares[-1]:.2f} ({otherwise})"
        rows.append([name, f"{found.bare:.2f}", f"{times[-1]:.2f}", f"{found.held / 1e6:.0f}", share])
    print_table(["step", "bare, CPU s", "ours ÷ bare", "MB above the banks", "÷ the published way's"], rows)
    for line in left_out:
        print(line)
    print_verdict("CPU time of a step, of the bare products'", max(times), at_most=MOST_TIME)
    print_verdict("memory above the banks, of the published way's", max(shares), at_most=MOST_MEMORY)


if __name__ == "__main__":
    run(main)
