"""What half-precision banks change in CompRess's loss and gradient, and what they cost, against float64.

python tests/benchmarks/bank_precision.py        synthetic embeddings; prints rows for docs/benchmarks.md
"""

import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from compress_ssl.pipeline.distill.objectives.teacher_bank_objective import similarity_divergence
from compress_ssl.pipeline.training.memory_bank import MemoryBank

SIZES, DIM, BATCH, KINDS, TEMPERATURE = (128_000, 1_000_000), 256, 16, 200, 0.04


def embeddings(kinds: Tensor, count: int) -> Tensor:
    """Images of some kinds, all in one corner of the space, as behind a ReLU: (count, D), L2-normalised."""
    return normalize((kinds[torch.randint(len(kinds), (count,))] + torch.randn(count, kinds.shape[1])).relu(), dim=1)


def loss_and_gradient(teacher: Tensor, student: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    loss, _ = similarity_divergence(teacher, student, TEMPERATURE)
    return loss, torch.autograd.grad(loss, queries)[0].double()


def main() -> None:
    torch.set_num_threads(1)
    for size in SIZES:
        torch.manual_seed(0)
        kinds = torch.randn(KINDS, DIM)
        rows, teacher = embeddings(kinds, size), embeddings(kinds, BATCH)
        queries = normalize(teacher + 0.02 * torch.randn(BATCH, DIM), dim=1)
        wide = queries.double().requires_grad_()
        expected, slope = loss_and_gradient(teacher.double() @ rows.double().T, wide @ rows.double().T, wide)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            bank = MemoryBank(size, DIM, dtype)
            bank.enqueue(rows)
            narrow = queries.clone().requires_grad_()
            begun = time.process_time()
            loss, gradient = loss_and_gradient(bank.similarities(teacher), bank.similarities(narrow), narrow)
            seconds = time.process_time() - begun
            print(
                f"| {size:,} | {str(dtype).removeprefix('torch.')} | {bank.rows.nbytes / 1e6:,.0f} | {expected:.4f} | "
                f"{abs(loss.item() / expected.item() - 1):.0e} | "
                f"{float((gradient - slope).norm() / slope.norm()):.0e} | {seconds:.1f} |"
            )


if __name__ == "__main__":
    main()
