"""The loss of CompRess: the divergence between two distributions of similarities over anchor points."""

import torch
from torch import Tensor


def similarity_divergence(
    teacher_similarities: Tensor,
    student_similarities: Tensor,
    temperature: float,
    teacher_temperature: float | None = None,
    masked: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return KL(teacher || student) of the softmaxes over K anchors, averaged over the batch.

    Args:
        teacher_similarities, student_similarities (float tensors of shape (B, K)): Cosine similarities of each image
            with the anchors.
        temperature: Of the softmax.
        teacher_temperature: Of the teacher's softmax; the same unless given.
        masked (bool tensor of shape (B, K)): Anchors masked for an image; at least one stays for each.

    Returns:
        loss (scalar): CompRess (Koohpayegani et al. 2020), equations 1 to 3.
        diagnostics: ``teacher_perplexity``: the exponential of the teacher's entropy, averaged: the effective number of
            anchors.
    """
    masked = torch.zeros((), dtype=torch.bool, device=teacher_similarities.device) if masked is None else masked
    teacher, student = (
        torch.log_softmax((similarities / divisor).masked_fill(masked, -torch.inf), dim=1).masked_fill(masked, 0)
        for similarities, divisor in (
            (teacher_similarities, teacher_temperature or temperature),
            (student_similarities, temperature),
        )
    )
    probability = teacher.exp().masked_fill(masked, 0)
    loss = (probability * (teacher - student)).sum(dim=1).mean()
    perplexity = (-(probability * teacher).sum(dim=1)).exp().mean()
    return loss, {"teacher_perplexity": perplexity}
