"""Compress large self-supervised vision models into small ones: embed once, distill many students, evaluate them.

The Python API::

    from compress_ssl import EmbedSettings, Silent, embed, open_store

    embed(EmbedSettings(data="photographs", store="teacher.zarr", teacher="torchvision/resnet50"), Silent())
    embeddings = open_store("teacher.zarr")["train"].view(0)

Each stage is a function of its settings and of a progress reporter; objectives are modules that train on tensors. A
name is imported when it is first used, so that ``import compress_ssl`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.progress import Silent as Silent
    from compress_ssl.pipeline.distill.objectives.cluster_classification import (
        ClusterClassification as ClusterClassification,
    )
    from compress_ssl.pipeline.distill.objectives.compress_1q import CompRess1q as CompRess1q
    from compress_ssl.pipeline.distill.objectives.compress_2q import CompRess2q as CompRess2q
    from compress_ssl.pipeline.distill.objectives.crd import CRD as CRD
    from compress_ssl.pipeline.distill.objectives.regression import Regression as Regression
    from compress_ssl.pipeline.distill.objectives.regression import RegressionBN as RegressionBN
    from compress_ssl.pipeline.distill.objectives.regression import SimReg as SimReg
    from compress_ssl.pipeline.distill.objectives.seed import SEED as SEED
    from compress_ssl.pipeline.distill.run import distill as distill
    from compress_ssl.pipeline.distill.settings import DistillSettings as DistillSettings
    from compress_ssl.pipeline.embed.run import embed as embed
    from compress_ssl.pipeline.embed.settings import EmbedSettings as EmbedSettings
    from compress_ssl.pipeline.evaluate.run import evaluate as evaluate
    from compress_ssl.pipeline.evaluate.settings import KnnSettings as KnnSettings
    from compress_ssl.pipeline.evaluate.settings import LinearSettings as LinearSettings
    from compress_ssl.pipeline.networks.network import load_network as load_network
    from compress_ssl.pipeline.pretrain.run import pretrain as pretrain
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings as PretrainSettings
    from compress_ssl.storage import describe as describe
    from compress_ssl.storage import open_store as open_store

MODULES = {
    "Silent": "compress_ssl.pipeline.common.progress",
    "ClusterClassification": "compress_ssl.pipeline.distill.objectives.cluster_classification",
    "CompRess1q": "compress_ssl.pipeline.distill.objectives.compress_1q",
    "CompRess2q": "compress_ssl.pipeline.distill.objectives.compress_2q",
    "CRD": "compress_ssl.pipeline.distill.objectives.crd",
    "Regression": "compress_ssl.pipeline.distill.objectives.regression",
    "RegressionBN": "compress_ssl.pipeline.distill.objectives.regression",
    "SEED": "compress_ssl.pipeline.distill.objectives.seed",
    "SimReg": "compress_ssl.pipeline.distill.objectives.regression",
    "distill": "compress_ssl.pipeline.distill.run",
    "DistillSettings": "compress_ssl.pipeline.distill.settings",
    "embed": "compress_ssl.pipeline.embed.run",
    "EmbedSettings": "compress_ssl.pipeline.embed.settings",
    "evaluate": "compress_ssl.pipeline.evaluate.run",
    "KnnSettings": "compress_ssl.pipeline.evaluate.settings",
    "LinearSettings": "compress_ssl.pipeline.evaluate.settings",
    "load_network": "compress_ssl.pipeline.networks.network",
    "pretrain": "compress_ssl.pipeline.pretrain.run",
    "PretrainSettings": "compress_ssl.pipeline.pretrain.settings",
    "describe": "compress_ssl.storage",
    "open_store": "compress_ssl.storage",
}
"""Public names, each with the module that defines it."""

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'compress_ssl' has no attribute '{name}'")
    return getattr(importlib.import_module(MODULES[name]), name)
