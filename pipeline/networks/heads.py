"""Heads between a student's feature and an objective: trained with the student, dropped at export.

Letters: B batch, F the student's feature dimension, D the teacher's.
"""

from collections.abc import Callable

from torch import nn


def build_head(name: str, feature_dim: int, teacher_dim: int) -> tuple[nn.Module, int]:
    """Build the head ``none``, the identity, or one of ``HEADS``; return it and its output dimension, F or D."""
    if name == "none":
        return nn.Identity(), feature_dim
    return HEADS[name](feature_dim, teacher_dim), teacher_dim


def simreg_mlp(feature_dim: int, teacher_dim: int) -> nn.Sequential:
    """Build four linear layers, to 2 F, F, 2 F and D; batch norm and ReLU follow the first and the third.

    SimReg (Navaneet et al. 2021, section 3): its projection and prediction heads, one after the other. Layers as in
    UCDvision/simreg, mlp_arch.py, commit 8f9c8e5; widths as in its simreg.py, commit 43fb804.
    """
    wide = 2 * feature_dim
    return nn.Sequential(
        *(nn.Linear(feature_dim, wide), nn.BatchNorm1d(wide), nn.ReLU()),
        nn.Linear(wide, feature_dim),
        *(nn.Linear(feature_dim, wide), nn.BatchNorm1d(wide), nn.ReLU()),
        nn.Linear(wide, teacher_dim),
    )


def seed_mlp(feature_dim: int, teacher_dim: int) -> nn.Sequential:
    """Build two linear layers, to F and D, with ReLU between.

    SEED (Fang et al. 2021, section 3.2), after MoCo-v2; layers as in jacobswan1/SEED, seed/builder.py, commit 81ff933.
    """
    return nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, teacher_dim))


def unic_mlp(feature_dim: int, teacher_dim: int) -> nn.Sequential:
    """Build two linear layers, to 4 F and D, with GELU between; weights of standard deviation 0.02, biases zero.

    UNIC (Sariyildiz et al. 2024): naver/unic, modeling/unic.py, commit 02269db, the last block's projector, whose width
    of 3,072 is four times the 768 features of its ViT-B.
    """
    layers = nn.Linear(feature_dim, 4 * feature_dim), nn.Linear(4 * feature_dim, teacher_dim)
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1])


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear, "mlp": simreg_mlp, "mlp-2": seed_mlp, "mlp-gelu": unic_mlp
}  # fmt: skip
