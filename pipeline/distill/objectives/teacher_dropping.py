"""Teacher dropping (Sariyildiz et al. 2024, UNIC): of several teachers, those that an image matches well are left out.

Published code naver/unic, modeling/teacher_dropping.py at 02269dbfa293 (DUNE has the same as "lowest_loss"): of each
image the teacher with the largest loss is kept, and every other one is dropped with probability p. The loss is the mean
over all kept pairs of image and teacher in the batch: of each rank, and of each micro-batch. With weights it is the
weighted mean over these pairs.

Letters: T teachers, B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def drop_teachers(losses: Tensor, weights: Sequence[float], probability: float) -> Tensor:
    """Draw which teachers are kept; return the factors (T, B) of the losses (T, B), which add up to one."""
    kept = torch.rand_like(losses) >= probability
    kept.scatter_(0, losses.argmax(dim=0, keepdim=True), True)
    factors = torch.stack([weight * row for weight, row in zip(weights, kept, strict=True)])
    return factors / factors.sum()
