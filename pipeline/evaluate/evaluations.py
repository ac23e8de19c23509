"""Registry of the evaluations. Imports no torch."""

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
    function: str  # takes (settings, source, progress), returns a result with a method ``scores()``
    file: str  # file of the result, beside the model
    needs_network: bool = False
    """A recipe cannot run it from a store: it uses other images, or layers inside the network."""


EVALUATIONS = {
    "knn": Evaluation(KnnSettings, "knn.evaluate:evaluate_knn", "nearest-neighbour.json"),
    "linear": Evaluation(LinearSettings, "linear.evaluate:evaluate_linear", "linear.json"),
    "low-shot": Evaluation(LowShotSettings, "linear.low_shot:evaluate_low_shot", "low-shot.json"),
    "cluster": Evaluation(ClusterSettings, "cluster.evaluate:evaluate_cluster", "cluster.json"),
    "layers": Evaluation(LayersSettings, "layers.evaluate:evaluate_layers", "layers.json", needs_network=True),
    "voc-classify": Evaluation(
        VocClassifySettings, "voc.classify:evaluate_voc_classify", "voc-classify.json", needs_network=True
    ),
    "voc-detect": Evaluation(
        VocDetectSettings, "voc.detect:evaluate_voc_detect", "voc-detect.json", needs_network=True
    ),
}

DEFAULT_EVALUATION = "knn"  # quick, and without options that have to be chosen
