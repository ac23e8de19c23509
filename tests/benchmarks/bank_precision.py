"""Precision of the products with memory banks.

16 queries near their teacher's embeddings, 256 dimensions, synthetic embeddings of 200 kinds after a ReLU, T = 0.04. A
GPU rounds both factors of a product to TF32 or half precision and adds in float32; here they are rounded likewise and
added in float64, on any machine. Errors are relative to float64: of the loss, and of the norm of its gradient with
respect to the queries. A GPU multiplies float32 banks in TF32 during training, which costs no more than float16 banks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.benchmarks.measure import print_table, run

DIM, BATCH, KINDS, TEMPERATURE = 256, 16, 200, 0.04


def to_tf32(values: Tensor) -> Tensor:
    """Round to 10 bits of mantissa, to nearest."""
    bits = values.float().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "float64": lambda values: values,
    "float32": lambda values: values.float().double(),
    "float32 as TF32": to_tf32,
    "bfloat16": lambda values: values.bfloat16().double(),
    "float16": lambda values: values.half().double(),
}


def embeddings(kinds: Tensor, count: int) -> Tensor:
    """Images of some kinds, all in one corner of the space, as behind a ReLU: (count, D), L2-normalised."""
    return normalize((kinds[torch.randint(len(kinds), (count,))] + torch.randn(count, kinds.shape[1])).relu(), dim=1)


def loss_and_gradient(
    teacher: Tensor, queries: Tensor, bank: Tensor, rounded: Callable[[Tensor], Tensor]
) -> tuple[float, Tensor]:
    bank, teacher, queries = (each.double() for each in (bank, teacher, queries))
    rows = rounded(bank)
    p, q = (torch.log_softmax(rounded(each / TEMPERATURE) @ rows.T, dim=1) for each in (teacher, queries))
    weights = q.exp() - p.exp()
    scale = weights.abs().amax(dim=1, keepdim=True)
    return float((p.exp() * (p - q)).sum(dim=1).mean()), rounded(weights / scale) @ rows * scale


def main(toy: bool) -> None:
    """Print the errors of banks of two sizes."""
    rows = []
    for size in (1_000, 2_000) if toy else (128_000, 1_000_000):
        torch.manual_seed(0)
        kinds = torch.randn(KINDS, DIM)
        bank, teacher = embeddings(kinds, size), embeddings(kinds, BATCH)
        queries = normalize(teacher + 0.02 * torch.randn(BATCH, DIM), dim=1)
        expected, slope = loss_and_gradient(teacher, queries, bank, ROUNDINGS["float64"])
        for name, rounded in ROUNDINGS.items():
            if name != "float64":
                loss, gradient = loss_and_gradient(teacher, queries, bank, rounded)
                megabytes = size * DIM * (4 if name.startswith("float32") else 2) / 1e6
                errors = (abs(loss / expected - 1), float((gradient - slope).norm() / slope.norm()))
                shown = (f"{error:.0e}" for error in errors)
                rows.append((f"{size:,}", name, f"{megabytes:,.0f}", f"{expected:.4f}", *shown))
    print_table(("rows", "bank", "MB", "loss", "loss error", "gradient error"), rows)


if __name__ == "__main__":
    run(main)
