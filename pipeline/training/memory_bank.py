"""Memory bank (queue) of the last K embeddings, first in, first out, that queries are compared with."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

CONVERTED_ROWS = 8192  # rows of a half-precision bank that a CPU converts to float32 at a time


class MemoryBank(nn.Module):
    """A queue of K embeddings of dimension D, initialized with noise (MoCo, He et al. 2020, published code)."""

    rows: Tensor
    position: Tensor
    images: Tensor | None  # (K,) int64: the image of each row, -1 for none; None if the bank does not track images

    def __init__(self, size: int, dim: int, dtype: torch.dtype = torch.float32, *, track_images: bool = False) -> None:
        """Draw K rows uniformly in plus or minus 1 / sqrt(D / 3), from torch's generator.

        Args:
            size, dim: K and D.
            dtype: Half precision halves the memory; similarities are then exact to about 2^-9 (bfloat16) or 2^-12
                (float16).
            track_images: Track the image of each row, so that a query's own entries can be masked.
        """
        super().__init__()
        bound = (dim / 3) ** -0.5
        noise = torch.empty(size, dim).uniform_(-bound, bound)
        self.register_buffer("rows", noise.to(dtype))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("images", torch.full((size,), -1) if track_images else None)

    def exclude_from_checkpoint(self) -> None:
        """Leave the bank out of ``state_dict``, because it can be refilled."""
        for name, buffer in list(self._buffers.items()):
            self.register_buffer(name, buffer, persistent=False)

    def similarities(self, queries: Tensor) -> Tensor:
        """Return the dot products (B, K) of queries (B, D) with all rows, in float32.

        Enqueue only after the backward pass, which needs these rows.
        """
        if self.rows.dtype == queries.dtype:
            return queries @ self.rows.T
        products: Tensor = _HalfProducts.apply(queries, self.rows)
        return products

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, images: Tensor | None = None) -> None:
        """Replace the oldest rows by a batch (B, D) of images (B,), wrapping around at the end."""
        places = self._places(len(embeddings))
        self.rows[places] = embeddings[-len(places) :].to(self.rows.dtype)
        if self.images is not None:
            assert images is not None
            self.images[places] = images[-len(places) :]
        self.skip(len(embeddings))

    @torch.no_grad()
    def rows_after(self, embeddings: Tensor) -> Tensor:
        """Return the rows (K, D) that enqueueing a batch (B, D) would leave."""
        places = self._places(len(embeddings))
        return self.rows.index_copy(0, places, embeddings[-len(places) :].to(self.rows.dtype))

    @torch.no_grad()
    def skip(self, count: int) -> None:
        """Advance by ``count`` rows without writing them."""
        self.position.copy_((self.position + count) % len(self.rows))

    def _places(self, count: int) -> Tensor:
        """Return where the last of ``count`` embeddings are enqueued, at most K."""
        kept = min(count, len(self.rows))
        return (self.position + count - kept + torch.arange(kept, device=self.rows.device)) % len(self.rows)


def dot_products(queries: Tensor, rows: Tensor, *, out: Tensor) -> None:
    """Write the dot products (B, K) of queries (B, D) and a bank's rows (K, D) to ``out``, in the queries' precision.

    Rows in half precision are multiplied in it on a GPU, and the sums are not rounded to it. On a CPU the rows are
    converted, a part at a time: many CPUs only emulate half precision, and torch rounds the sums there.
    """
    if rows.dtype == queries.dtype:
        torch.mm(queries, rows.T, out=out)
    elif rows.is_cuda:
        torch.mm(queries.to(rows.dtype), rows.T, out_dtype=out.dtype, out=out)
    else:
        for part in _parts(rows):
            torch.mm(queries, rows[part].to(queries.dtype).T, out=out[:, part])


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sums (B, D) of a bank's rows (K, D) with weights (B, K), in the weights' precision.

    On a GPU, weights for rows in half precision are scaled to it: those of a gradient would underflow in float16.
    """
    if rows.dtype == weights.dtype:
        return weights @ rows
    if rows.is_cuda:
        scale: Tensor = torch.linalg.vector_norm(weights, ord=torch.inf, dim=1, keepdim=True)
        scale.clamp_(min=torch.finfo(weights.dtype).tiny)
        scaled = torch.div(weights, scale, out=torch.empty_like(weights, dtype=rows.dtype))
        return torch.mm(scaled, rows, out_dtype=weights.dtype) * scale
    sums = weights.new_zeros(len(weights), rows.shape[1])
    for part in _parts(rows):
        sums.addmm_(weights[:, part], rows[part].to(weights.dtype))
    return sums


def _parts(rows: Tensor) -> list[slice]:
    return [slice(start, start + CONVERTED_ROWS) for start in range(0, len(rows), CONVERTED_ROWS)]


class _HalfProducts(torch.autograd.Function):
    """``dot_products`` with gradient for the queries."""

    @staticmethod
    def forward(ctx: FunctionCtx, queries: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        products = queries.new_empty(len(queries), len(rows))
        dot_products(queries, rows, out=products)
        return products

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return weighted_sums(gradients[0], rows), None
