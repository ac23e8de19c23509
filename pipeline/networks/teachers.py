"""Published self-supervised teachers: architecture, preprocessing, and the source of their files.

A teacher's feature is the pooled output of its backbone; its dimension follows from the architecture. The projection
head is dropped, as in every published evaluation.
"""

from dataclasses import dataclass

from compress_ssl.pipeline.networks.checkpoints.layouts import IMAGENET, IMAGENET_BICUBIC, UNIT_RANGE
from compress_ssl.pipeline.networks.preprocessing import Preprocessing


@dataclass(frozen=True)
class Teacher:
    """A published network; the user downloads the file of its weights."""

    architecture: str
    preprocessing: Preprocessing
    citation: str
    weights: str  # source of the published file
    layouts: tuple[str, ...]  # layouts of the published files; those of other programs may have other layouts


def _simclr(width: int, tf_same: bool = False) -> Teacher:
    """Return SimCLR's ResNet-50, ``width`` times as wide.

    Both published conversions to PyTorch pad the max-pool by one pixel on each side. Weights converted to reproduce
    TensorFlow's features take ``-tf-same``.
    """
    flat = width == 4 and not tf_same
    return Teacher(
        f"resnet50{'' if width == 1 else f'-w{width}'}{'-tf-same' if tf_same else ''}",
        UNIT_RANGE,
        "Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
        f"ResNet50_{width}x of https://github.com/google-research/simclr, converted by "
        f"https://github.com/tonylins/simclr-converter to resnet50-{width}x.pth"
        + ("; converted by the authors of CompRess: https://github.com/UMBCvision/CompRess" if flat else ""),
        ("plain", "simclr-flat"),
    )


def _moco(version: int, citation: str, file: str) -> Teacher:
    layouts = (f"moco-v{version}", "moco-v3-momentum" if version == 3 else "moco")
    return Teacher("resnet50", IMAGENET, citation, f"https://dl.fbaipublicfiles.com/{file}", layouts)


def _swav(width: int, file: str) -> Teacher:
    """Return SwAV's ResNet-50, ``width`` times as wide.

    SwAV's code divides the red channel by 0.228 (src/multicropdataset.py, commit 04b8f43), CompRess by ImageNet's 0.229
    (cache_feats.py, commit 6bd816a): half a percent apart. The numbers of CompRess are with the latter, which is used.
    """
    return Teacher(
        f"resnet50{'' if width == 1 else f'-w{width}'}",
        IMAGENET,
        "Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020",
        f"https://dl.fbaipublicfiles.com/deepcluster/{file}",
        ("swav",),
    )


TEACHERS: dict[str, Teacher] = {
    "simclr-resnet50": _simclr(1),
    "simclr-resnet50-w2": _simclr(2),
    "simclr-resnet50-w4": _simclr(4),
    "simclr-resnet50-tf-same": _simclr(1, tf_same=True),
    "simclr-resnet50-w2-tf-same": _simclr(2, tf_same=True),
    "simclr-resnet50-w4-tf-same": _simclr(4, tf_same=True),
    "moco-v1-resnet50": _moco(
        1,
        "He et al., Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020",
        "moco/moco_checkpoints/moco_v1_200ep/moco_v1_200ep_pretrain.pth.tar",
    ),
    "moco-v2-resnet50": _moco(
        2,
        "Chen, Fan, Girshick and He, Improved Baselines with Momentum Contrastive Learning, arXiv:2003.04297, 2020",
        "moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
    ),
    "moco-v3-resnet50": _moco(
        3,
        "Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021",
        "moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
    ),
    "swav-resnet50": _swav(1, "swav_800ep_pretrain.pth.tar"),
    "swav-resnet50-w2": _swav(2, "swav_RN50w2_400ep_pretrain.pth.tar"),
    "swav-resnet50-w4": _swav(4, "swav_RN50w4_400ep_pretrain.pth.tar"),
    "swav-resnet50-w5": _swav(5, "swav_RN50w5_400ep_pretrain.pth.tar"),
    "dino-resnet50": Teacher(
        "resnet50",
        IMAGENET_BICUBIC,
        "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021",
        "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        ("plain", "dino"),
    ),
    "barlow-twins-resnet50": Teacher(
        "resnet50",
        IMAGENET,
        "Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021",
        "https://dl.fbaipublicfiles.com/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
        ("plain", "barlow-twins"),
    ),
    "vicreg-resnet50": Teacher(
        "resnet50",
        IMAGENET,
        "Bardes, Ponce and LeCun, VICReg: Variance-Invariance-Covariance Regularization, ICLR 2022",
        "https://dl.fbaipublicfiles.com/vicreg/resnet50.pth",
        ("plain", "vicreg"),
    ),
}
