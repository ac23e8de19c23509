"""The heart of CompRess: the divergence between two distributions of similarities over anchor points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def similarity_divergence(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """KL(teacher || student) of the softmaxes over K anchors, averaged over the batch.

    Parameters
    ----------
    teacher_logits, student_logits : float tensors of shape (B, K)
        Cosine similarities of each image with the anchors.
    temperature : float
        Divides the similarities.

    Returns
    -------
    loss : scalar
        CompRess (Koohpayegani et al. 2020), equations 1 to 3.
    diagnostics : dict
        ``teacher_perplexity``: the exponential of the teacher's entropy, averaged: how many anchors count.
    """
    teacher = torch.log_softmax(teacher_logits / temperature, dim=1)
    student = torch.log_softmax(student_logits / temperature, dim=1)
    probability = teacher.exp()
    loss = (probability * (teacher - student)).sum(dim=1).mean()
    perplexity = (-(probability * teacher).sum(dim=1)).exp().mean()
    return loss, {"teacher_perplexity": perplexity}
