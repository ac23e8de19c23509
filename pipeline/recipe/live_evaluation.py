"""Live evaluation for what is trained: made from a training's settings, handed to its stage as a function."""

from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.images.rendering import Renderer
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.pipeline.training.task import ScoreFunction


def live_evaluation(
    settings: DistillSettings | PretrainSettings, renderer: Renderer, progress: Progress
) -> ScoreFunction:
    """Return the nearest-neighbour evaluation of a training, on part of its split and of ``live_split``.

    Raises:
        InputError, StoreError: As ``LiveNearestNeighbour``.
    """
    from compress_ssl.pipeline.evaluate.knn.live import LiveNearestNeighbour  # loads faiss, for few runs

    store, selection = (settings.store, None) if isinstance(settings, DistillSettings) else (None, settings)
    return LiveNearestNeighbour(
        settings.data,
        settings.run,
        renderer=renderer,
        threads=settings.thread_count,
        progress=progress,
        store=store,
        train_split=settings.split,
        test_split=settings.live_split,
        limit=settings.live_images,
        selection=selection,
    )
