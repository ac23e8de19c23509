"""CompRess's loss: the divergence of two distributions over memory banks, and its gradient, a tile at a time.

The banks are constants, so the gradient with respect to the queries is computed together with the loss, and no tensor
of (B, K) is kept for the backward pass.

Letters: B batch, K rows of a bank, D the teacher's dimension, F the student's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from compress_ssl.pipeline.training.memory_bank import dot_products, weighted_sums

TILE = 2**28  # elements of (B, K) computed at a time: all of B = 256 at K = 1,000,000, 1 GiB in float32
CPU_BLOCK = 2**17  # elements of (B, K) whose softmax is computed at a time on a CPU: they fit a core's cache


def bank_divergence(
    teacher: Tensor,
    queries: Tensor,
    teacher_bank: Tensor,
    student_bank: Tensor,
    temperature: float,
    teacher_temperature: float | None = None,
    *,
    masked: Tensor | None = None,
    own_anchor: Tensor | None = None,
    tile: int = TILE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return KL(teacher || student) of the softmaxes over K anchors, averaged over the batch.

    Args:
        teacher, queries (float tensors of shape (B, D) and (B, F)): L2-normalised embeddings; gradients flow to the
            queries alone.
        teacher_bank, student_bank (float tensors of shape (K, D) and (K, F)): Anchors, constant; maybe one tensor.
        temperature: Of the softmax.
        teacher_temperature: Of the teacher's softmax; the same unless given.
        masked (bool tensor of shape (B, K)): Anchors masked for an image; at least one stays for each.
        own_anchor (float tensor of shape (B, D)): One more anchor for each image, where F = D.
        tile: Elements of (B, K) held at a time, for teacher and student each; at least one row.

    Returns:
        loss (scalar): CompRess (Koohpayegani et al. 2020), equations 1 to 3.
        diagnostics: ``teacher_perplexity``: the exponential of the teacher's entropy, averaged: the effective number of
            anchors.
    """
    banks = teacher_bank, student_bank
    temperatures = teacher_temperature or temperature, temperature
    loss, perplexity = _BankDivergence.apply(queries, teacher.detach(), banks, temperatures, masked, own_anchor, tile)
    return loss, {"teacher_perplexity": perplexity}


class _BankDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        teacher: Tensor,
        banks: tuple[Tensor, Tensor],
        temperatures: tuple[float, float],
        masked: Tensor | None,
        own_anchor: Tensor | None,
        tile: int,
    ) -> tuple[Tensor, Tensor]:
        count, size = len(queries), len(banks[0])
        columns = size if own_anchor is None else size + 1
        held = min(count, max(1, tile // columns))
        # In two buffers for all tiles. Rows are padded to a multiple of 32 bytes, for fast matrix products.
        logits = [queries.new_empty(held, -(-columns // 8) * 8)[:, :columns] for _ in banks]
        divergence, entropy = queries.new_empty(2, count).unbind()
        gradient = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        for start in range(0, count, held):
            rows = slice(start, min(start + held, count))
            both = [buffer[: rows.stop - start] for buffer in logits]
            for embeddings, bank, divisor, of_bank in zip((teacher, queries), banks, temperatures, both, strict=True):
                scaled = embeddings[rows] / divisor
                dot_products(scaled, bank, out=of_bank[:, :size])
                if masked is not None:
                    # Not infinite: its product with a probability of zero is to be zero.
                    of_bank[:, :size].masked_fill_(masked[rows], torch.finfo(of_bank.dtype).min / 4)
                if own_anchor is not None:
                    torch.sum(scaled * own_anchor[rows], dim=1, out=of_bank[:, size])
            block = held if queries.is_cuda else max(1, CPU_BLOCK // columns)
            parts = (torch.split(whole, block) for whole in (*both, divergence[rows], entropy[rows]))
            for part in zip(*parts, strict=True):
                _softmaxes(*part)
            if gradient is not None:
                slope = weighted_sums(both[1][:, :size], banks[1])
                if own_anchor is not None:
                    slope += both[1][:, size:] * own_anchor[rows]
                gradient[rows] = slope / (temperatures[1] * count)
        ctx.save_for_backward(gradient)
        perplexity = entropy.exp_().mean()
        ctx.mark_non_differentiable(perplexity)
        return divergence.mean(), perplexity

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * loss_gradient, None, None, None, None, None, None


def _softmaxes(teacher: Tensor, student: Tensor, divergence: Tensor, entropy: Tensor) -> None:
    """Replace the student's logits (b, K) by its probabilities less the teacher's; the teacher's are overwritten.

    Args:
        divergence, entropy ((b,)): Set to KL(teacher || student) and the teacher's entropy, in nats.
    """
    for logits in (teacher, student):
        logits -= logits.amax(dim=1, keepdim=True)
    teacher_weights = teacher.exp()
    teacher_sum = teacher_weights.sum(dim=1)
    mean_teacher = teacher.mul_(teacher_weights).sum(dim=1) / teacher_sum  # of the logits, by the teacher's weights
    mean_student = torch.mul(teacher_weights, student, out=teacher).sum(dim=1) / teacher_sum
    student_sum = student.exp_().sum(dim=1)
    torch.sub(teacher_sum.log(), mean_teacher, out=entropy)
    torch.sub(student_sum.log() - mean_student, entropy, out=divergence)
    student /= student_sum[:, None]
    student.addcdiv_(teacher_weights, teacher_sum[:, None], value=-1)
