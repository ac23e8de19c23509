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
    from compress_ssl.pipeline.common.progress import Silent
    from compress_ssl.pipeline.distill.objectives.bingo import BINGO
    from compress_ssl.pipeline.distill.objectives.cluster_classification import ClusterClassification
    from compress_ssl.pipeline.distill.objectives.compress_1q import CompRess1q
    from compress_ssl.pipeline.distill.objectives.compress_2q import CompRess2q
    from compress_ssl.pipeline.distill.objectives.crd import CRD
    from compress_ssl.pipeline.distill.objectives.koleo import KoLeo
    from compress_ssl.pipeline.distill.objectives.lightly import Lightly
    from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
    from compress_ssl.pipeline.distill.objectives.patches import PatchRegression, PatchSimilarity
    from compress_ssl.pipeline.distill.objectives.regression import Regression, RegressionBN, SimReg
    from compress_ssl.pipeline.distill.objectives.retro import Retro
    from compress_ssl.pipeline.distill.objectives.seed import SEED
    from compress_ssl.pipeline.distill.objectives.unic import UNIC
    from compress_ssl.pipeline.distill.run import distill
    from compress_ssl.pipeline.distill.settings import DistillSettings
    from compress_ssl.pipeline.embed.run import embed
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.pipeline.evaluate.run import evaluate
    from compress_ssl.pipeline.evaluate.settings import KnnSettings, LinearSettings
    from compress_ssl.pipeline.networks.network import load_network
    from compress_ssl.pipeline.networks.preprocessing import Preprocessing
    from compress_ssl.pipeline.networks.user_networks import register_network
    from compress_ssl.pipeline.pretrain.run import pretrain
    from compress_ssl.pipeline.pretrain.settings import PretrainSettings
    from compress_ssl.storage import describe, open_store

__all__ = ["BINGO", "CRD", "SEED", "UNIC", "Batch", "ClusterClassification", "CompRess1q", "CompRess2q"]
__all__ += ["DistillSettings", "EmbedSettings", "KnnSettings", "KoLeo", "Lightly", "LinearSettings", "PatchRegression"]
__all__ += ["PatchSimilarity", "Preprocessing", "PretrainSettings", "Regression", "RegressionBN", "Retro", "Silent"]
__all__ += ["SimReg", "TeacherEmbeddings", "__version__", "describe", "distill", "embed", "evaluate", "load_network"]
__all__ += ["open_store", "pretrain", "register_network"]

NAMES = {
    "pipeline.common.progress": "Silent",
    "pipeline.distill.objectives.bingo": "BINGO",
    "pipeline.distill.objectives.cluster_classification": "ClusterClassification",
    "pipeline.distill.objectives.compress_1q": "CompRess1q",
    "pipeline.distill.objectives.compress_2q": "CompRess2q",
    "pipeline.distill.objectives.crd": "CRD",
    "pipeline.distill.objectives.koleo": "KoLeo",
    "pipeline.distill.objectives.lightly": "Lightly",
    "pipeline.distill.objectives.objective": "Batch TeacherEmbeddings",
    "pipeline.distill.objectives.patches": "PatchRegression PatchSimilarity",
    "pipeline.distill.objectives.regression": "Regression RegressionBN SimReg",
    "pipeline.distill.objectives.retro": "Retro",
    "pipeline.distill.objectives.seed": "SEED",
    "pipeline.distill.objectives.unic": "UNIC",
    "pipeline.distill.run": "distill",
    "pipeline.distill.settings": "DistillSettings",
    "pipeline.embed.run": "embed",
    "pipeline.embed.settings": "EmbedSettings",
    "pipeline.evaluate.run": "evaluate",
    "pipeline.evaluate.settings": "KnnSettings LinearSettings",
    "pipeline.networks.network": "load_network",
    "pipeline.networks.preprocessing": "Preprocessing",
    "pipeline.networks.user_networks": "register_network",
    "pipeline.pretrain.run": "pretrain",
    "pipeline.pretrain.settings": "PretrainSettings",
    "storage": "describe open_store",
}  # public names by the module that defines them; a test compares them with the imports above
MODULES = {name: f"compress_ssl.{module}" for module, names in NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("compress-ssl")
    if name not in MODULES:
        raise AttributeError(f"module 'compress_ssl' has no attribute '{name}'")
    return getattr(importlib.import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
