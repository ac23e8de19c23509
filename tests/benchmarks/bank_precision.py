"""What the precision of the products with memory banks changes in CompRess's loss and gradient, against float64.

python tests/benchmarks/bank_precision.py        synthetic embeddings; prints rows for docs/benchmarks.md

A GPU rounds both factors of a product to TF32 or half precision and adds in float32. Here factors are rounded likewise
and added in float64, on any machine.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

SIZES, DIM, BATCH, KINDS, TEMPERATURE = (128_000, 1_000_000), 256, 16, 200, 0.04


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


def main() -> None:
    for size in SIZES:
        torch.manual_seed(0)
        kinds = torch.randn(KINDS, DIM)
        bank, teacher = embeddings(kinds, size), embeddings(kinds, BATCH)
        queries = normalize(teacher + 0.02 * torch.randn(BATCH, DIM), dim=1)
        expected, slope = loss_and_gradient(teacher, queries, bank, ROUNDINGS["float64"])
        for name, rounded in ROUNDINGS.items():
            if name != "float64":
                loss, gradient = loss_and_gradient(teacher, queries, bank, rounded)
                megabytes = size * DIM * (4 if name.startswith("float32") else 2) / 1e6
                print(
                    f"| {size:,} | {name} | {megabytes:,.0f} | {expected:.4f} | {abs(loss / expected - 1):.0e} | "
                    f"{float((gradient - slope).norm() / slope.norm()):.0e} |"
                )


if __name__ == "__main__":
    main()
