"""Standardisation of a teacher's embeddings, so that the losses of teachers of any scale are of one scale.

Mean-std: of each dimension the mean is subtracted, and it is divided by its standard deviation, as in UNIC
(naver/unic, utils.py at 02269dbfa293) and DUNE (naver/dune, model/teacher_norm.py at afad549fa695), which take moving
averages over batches. PHI-S (Ranzinger et al. 2024, "PHI-S: Distribution Balancing for Label-Free Multi-Teacher
Distillation"; NVlabs/RADIO, examples/common/phi_s.py at c0f37017930e): with the covariance U diag(e) U^T and a
normalised Hadamard matrix H, y = H U^T (x - mean) / sqrt(mean e). All dimensions of y have variance one, and distances
keep their proportions. Here both are computed once, in float64, over all embeddings; covariances are divided by n.

Letters: n images, D the teacher's dimension.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.objectives.hadamard import hadamard_matrix

CHUNK_ROWS = 4096  # converted to float64 at a time
SMALLEST_STD = 1e-3
"""Of a dimension, relative to the root mean square of all: one that hardly varies is not magnified beyond that.

DUNE has the same number as an absolute limit, which depends on the teacher's scale.
"""


def fit_mean_std(embeddings: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the reciprocal standard deviation (D,) of embeddings (n, D), in float64 on the device.

    Raises:
        InputError: If all embeddings are equal.
    """
    mean = _mean_over_rows(embeddings, device, lambda rows: rows.sum(dim=0))
    std = _mean_over_rows(embeddings, device, lambda rows: (rows - mean).square().sum(dim=0)).sqrt()
    _check_varies(overall := std.square().mean().sqrt(), mean)
    return mean, 1 / std.clamp(min=SMALLEST_STD * overall)


def fit_phi_s(embeddings: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and U H^T / sqrt(mean e), (D, D), of embeddings (n, D), in float64 on the device.

    The signs of the eigenvectors are fixed, which otherwise depend on the machine.

    Raises:
        InputError: If all embeddings are equal, or no Hadamard matrix of order D can be constructed.
    """
    mean = _mean_over_rows(embeddings, device, lambda rows: rows.sum(dim=0))
    covariance = _mean_over_rows(embeddings, device, lambda rows: (rows - mean).T @ (rows - mean))
    _check_varies(overall := covariance.diagonal().mean().sqrt(), mean)
    _, axes = torch.linalg.eigh(covariance)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    hadamard = hadamard_matrix(len(mean)).to(device) / len(mean) ** 0.5
    return mean, axes @ hadamard.T / overall


def _mean_over_rows(embeddings: Tensor, device: torch.device, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sum over chunks of ``total`` of their rows in float64, divided by n."""
    totals = (total(rows.to(device, torch.float64)) for rows in torch.split(embeddings, CHUNK_ROWS))
    return sum(totals, torch.zeros((), dtype=torch.float64, device=device)) / len(embeddings)


def _check_varies(std: Tensor, mean: Tensor) -> None:
    if std <= 1e-12 * mean.abs().max():  # the rounding of equal embeddings
        raise InputError("The teacher's embeddings of all images are equal, so they cannot be standardised.")
