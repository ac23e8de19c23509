"""The heart of CompRess: the divergence between two distributions of similarities over anchor points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def similarity_divergence(
    teacher_similarities: Tensor,
    student_similarities: Tensor,
    temperature: float,
    teacher_temperature: float | None = None,
    left_out: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """KL(teacher || student) of the softmaxes over K anchors, averaged over the batch.

    Parameters
    ----------
    teacher_similarities, student_similarities : float tensors of shape (B, K)
        Cosine similarities of each image with the anchors.
    temperature : float
        Divides the similarities.
    teacher_temperature : float, optional
        Divides the teacher's instead, which have the same unless given.
    left_out : bool tensor of shape (B, K), optional
        Anchors that an image is not compared with; each image keeps one at least.

    Returns
    -------
    loss : scalar
        CompRess (Koohpayegani et al. 2020), equations 1 to 3.
    diagnostics : dict
        ``teacher_perplexity``: the exponential of the teacher's entropy, averaged: how many anchors count.
    """
    left_out = torch.zeros((), dtype=torch.bool, device=teacher_similarities.device) if left_out is None else left_out
    teacher, student = (
        torch.log_softmax((similarities / divisor).masked_fill(left_out, -torch.inf), dim=1).masked_fill(left_out, 0)
        for similarities, divisor in (
            (teacher_similarities, teacher_temperature or temperature),
            (student_similarities, temperature),
        )
    )
    probability = teacher.exp().masked_fill(left_out, 0)
    loss = (probability * (teacher - student)).sum(dim=1).mean()
    perplexity = (-(probability * teacher).sum(dim=1)).exp().mean()
    return loss, {"teacher_perplexity": perplexity}
