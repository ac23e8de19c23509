"""The stage: get the features of view 0, score them, write the result beside the model.

A student's features are an embedding store too: they come from stage one, with the student as the network and view 0
as the only view. A teacher's are in its store already, so it is scored without a forward pass, by the same code.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.embed.run import embed
from pipeline.embed.settings import EmbedSettings, SplitSource
from pipeline.errors import InputError
from pipeline.evaluate.features import StoredFeatures, check_labels
from pipeline.evaluate.nearest_neighbour import (
    NearestNeighbourResult,
    few_labels_accuracy,
    nearest_neighbour_accuracy,
)
from pipeline.evaluate.search import nearest_neighbours
from pipeline.evaluate.weighted_knn import WeightedKnnResult, weighted_knn_accuracy
from pipeline.images.data_set import list_data_set
from pipeline.machine import prepare_machine
from storage import open_store
from storage.durable import write_json_durably
from storage.errors import StoreMismatchError
from storage.reader import has_zarr_metadata
from storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from pipeline.evaluate.settings import EvaluateSettings
    from pipeline.progress import Progress
    from storage import EmbeddingStore

    Block = npt.NDArray[np.float16]

logger = logging.getLogger(__name__)

RESULT_FILE = "nearest-neighbour.json"


class Evaluation(NamedTuple):
    """What was scored, how, and where it is written."""

    name: str
    """Of the network."""
    results: tuple[NearestNeighbourResult, ...]
    """With all labels, then with each number of labels a class."""
    weighted_knn: tuple[WeightedKnnResult, ...]
    """With each number of neighbours."""
    path: Path


def evaluate(settings: EvaluateSettings, progress: Progress) -> Evaluation:
    """Score a network's or a store's features by nearest neighbour and by the weighted vote of k neighbours.

    Raises
    ------
    InputError
        If the model, the data or a setting cannot be used.
    StoreError
        If a store is not complete or damaged.
    """
    folder = _output_folder(settings)
    store = (
        open_store(settings.model)
        if has_zarr_metadata(Path(settings.model))
        else _features_of_network(settings, folder, progress)
    )
    train_split, test_split = store[settings.train_split], store[settings.test_split]
    _check_same_classes(settings, train_split.class_names, test_split.class_names)
    train, test = StoredFeatures("training", train_split), StoredFeatures("test", test_split).in_memory()
    neighbours = _neighbour_counts(settings, len(train.labels))
    device = prepare_machine(settings.device, settings.thread_count)
    few_labels = [
        few_labels_accuracy(
            train.rows, train.labels, test, count, draws=settings.draws, seed=settings.seed, device=device
        )
        for count in settings.labels_per_class
    ]
    with progress.track("search", len(train.labels)) as advance:
        bank = _told(train.blocks(), advance)
        found = nearest_neighbours(bank, test.features, max([1, *neighbours]), device=device)
    evaluation = Evaluation(
        store.attributes["teacher"]["name"],
        (nearest_neighbour_accuracy(found, train.labels, test.labels), *few_labels),
        tuple(
            weighted_knn_accuracy(
                found, train.labels, test.labels, neighbours=count, temperature=settings.knn_temperature
            )
            for count in neighbours
        ),
        folder / RESULT_FILE,
    )
    write_json_durably(evaluation.path, _record(settings, store, evaluation))
    return evaluation


def _output_folder(settings: EvaluateSettings) -> Path:
    path = Path(settings.model)
    if settings.output is not None:
        return settings.output
    if has_zarr_metadata(Path(settings.model)):
        return path.with_name(f"{path.name}.evaluation")
    if path.exists():
        return path if path.is_dir() else path.parent
    if settings.model.partition("/")[0] in {"random", "torchvision"}:
        raise InputError(f"'{settings.model}' has no folder of its own; say by --output where the result goes.")
    raise InputError(
        f"'{settings.model}' does not exist; give a store, a run's folder, a model.safetensors, torchvision/NAME or "
        "random/NAME."
    )


def _features_of_network(settings: EvaluateSettings, folder: Path, progress: Progress) -> EmbeddingStore:
    """Run stage one with this network, view 0 only; what an earlier evaluation left is used if it is the same."""
    if settings.data is None:
        raise InputError(
            f"--data is needed to compute the features of '{settings.model}'; only a store has them already."
        )
    splits = dict.fromkeys((settings.train_split, settings.test_split))
    _check_classes_before_the_work(settings, folder)
    shared = (set(EmbedSettings.model_fields) & set(type(settings).model_fields)) - {"index_folder"}
    wanted = EmbedSettings(
        **{name: getattr(settings, name) for name in shared},
        store=folder / "features.zarr",
        index_folder=_index_folder(settings, folder),
        teacher=settings.model,
        split=tuple(SplitSource(name=name, folder=name, views=0) for name in splits),
        normalise=True,  # whatever their length, float16 holds them; all evaluations look at directions
        resume=True,
    )
    try:
        return embed(wanted, progress)
    except StoreMismatchError:
        logger.info("The features in '%s' are of other images or settings; they are computed again.", wanted.store)
        return embed(wanted.model_copy(update={"resume": False, "overwrite": True}), progress)


def _index_folder(settings: EvaluateSettings, folder: Path) -> Path:
    """Beside the run, where the trainings of that folder keep it too."""
    return settings.index_folder or folder.parent / "index"


def _check_classes_before_the_work(settings: EvaluateSettings, folder: Path) -> None:
    """Find by the images' names what would end the evaluation when all features have been computed."""
    assert settings.data is not None
    names = (settings.train_split, settings.test_split)
    listed = list_data_set(settings.data, names, _index_folder(settings, folder), settings.labels)
    train, test = (listed[name][1] for name in names)
    for name, listing in (("training", train), ("test", test)):
        if not listing.class_names:
            check_labels(name, listing.labels)
    _check_same_classes(settings, train.class_names, test.class_names)


def _check_same_classes(settings: EvaluateSettings, train: Sequence[str], test: Sequence[str]) -> None:
    if tuple(train) != tuple(test):
        odd = next(iter(sorted(set(train) ^ set(test))), None)
        what = "number them differently" if odd is None else f"have different classes ('{odd}' is in one only)"
        raise InputError(
            f"Splits {settings.train_split} and {settings.test_split} {what}; both need the same class folders."
        )


def _neighbour_counts(settings: EvaluateSettings, train_images: int) -> list[int]:
    """How many neighbours are to vote; too many is an error only for a user who asked for them."""
    counts = sorted(set(settings.neighbours))
    too_many = [count for count in counts if count > train_images]
    if too_many and "neighbours" in settings.model_fields_set:
        raise InputError(
            f"--neighbours {too_many[0]} is more than the {train_images} training images of split "
            f"{settings.train_split}; ask for fewer."
        )
    for count in too_many:
        logger.info("There are %d training images; k-NN %d is left out.", train_images, count)
    return [count for count in counts if count <= train_images]


def _told(blocks: Iterator[Block], advance: Callable[[int], None]) -> Iterator[Block]:
    for block in blocks:
        yield block
        advance(len(block))


def _record(settings: EvaluateSettings, store: EmbeddingStore, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "evaluation": "nearest neighbour",
        "network": store.attributes["teacher"],
        "data_set": store.attributes["data_set"],
        "train_split": settings.train_split,
        "test_split": settings.test_split,
        "view": store[settings.test_split].views[EVALUATION_VIEW],
        "seed": settings.seed,
        "results": [result.model_dump(mode="json") for result in evaluation.results],
        "weighted_knn": [result.model_dump(mode="json") for result in evaluation.weighted_knn],
    }
