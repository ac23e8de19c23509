"""All evaluations by name: their settings, what runs them, where the result is written. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

from compress_ssl.pipeline.evaluate.settings import (
    ClusterSettings,
    EvaluateSettings,
    KnnSettings,
    LayersSettings,
    LinearSettings,
    LowShotSettings,
    VocClassifySettings,
    VocDetectSettings,
)


class Evaluation(NamedTuple):
    """One evaluation."""

    settings: type[EvaluateSettings]
    function: str
    """``module:function`` that runs it: (settings, subject, progress) to a result that has ``scores()``."""
    file: str
    """Its result, beside the model."""
    needs_network: bool = False
    """Whether a recipe's store is not enough: the evaluation is of other images, or looks inside the network."""


EVALUATIONS = {
    "knn": Evaluation(
        KnnSettings, "compress_ssl.pipeline.evaluate.knn.evaluate:evaluate_knn", "nearest-neighbour.json"
    ),
    "linear": Evaluation(
        LinearSettings, "compress_ssl.pipeline.evaluate.linear.evaluate:evaluate_linear", "linear.json"
    ),
    "low-shot": Evaluation(
        LowShotSettings, "compress_ssl.pipeline.evaluate.linear.low_shot:evaluate_low_shot", "low-shot.json"
    ),
    "cluster": Evaluation(
        ClusterSettings, "compress_ssl.pipeline.evaluate.cluster.evaluate:evaluate_cluster", "cluster.json"
    ),
    "layers": Evaluation(
        LayersSettings,
        "compress_ssl.pipeline.evaluate.layers.evaluate:evaluate_layers",
        "layers.json",
        needs_network=True,
    ),
    "voc-classify": Evaluation(
        VocClassifySettings,
        "compress_ssl.pipeline.evaluate.voc.classify:evaluate_voc_classify",
        "voc-classify.json",
        needs_network=True,
    ),
    "voc-detect": Evaluation(
        VocDetectSettings,
        "compress_ssl.pipeline.evaluate.voc.detect:evaluate_voc_detect",
        "voc-detect.json",
        needs_network=True,
    ),
}

DEFAULT_EVALUATION = "knn"
"""Quick, and without a choice to make."""


def evaluation_of(settings: EvaluateSettings) -> str:
    """Name of the evaluation that these are the settings of."""
    return next(name for name, evaluation in EVALUATIONS.items() if type(settings) is evaluation.settings)
