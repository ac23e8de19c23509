"""What is evaluated: a network, or a teacher's store; both give features to an evaluation in the same way.

A network's features are an embedding store too: they come from stage one, with the network as the teacher. A teacher's
are in its store already, so it is scored without a forward pass, by the same code.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings, SplitSource
from compress_ssl.pipeline.evaluate.features import check_labels
from compress_ssl.pipeline.images.data_set import list_data_set
from compress_ssl.pipeline.images.policies import CROPS, POLICIES, TEN_CROP, TenCrop
from compress_ssl.pipeline.images.renderers.make import make_renderer
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import check_reference, load_network
from compress_ssl.pipeline.networks.reference import REFERENCE_FORMS
from compress_ssl.pipeline.training.distributed import is_rank0, rank0_first
from compress_ssl.storage import location, open_store
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.recognise import is_meant_as_store
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.evaluate.settings import EvaluateSettings, LinearTraining
    from compress_ssl.pipeline.images.policies import Policy
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.networks.network import Network
    from compress_ssl.storage import EmbeddingStore, Split

logger = logging.getLogger(__name__)

TrainingT = TypeVar("TrainingT", bound="LinearTraining")


class FeatureSource:
    """One network or store, as the settings say it is to be seen."""

    def __init__(self, settings: EvaluateSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self.is_store = is_meant_as_store(settings.model)
        self.folder = _output_folder(settings, self.is_store)
        """Where results, features and pictures go."""
        self._store: EmbeddingStore | None = None

    def features(self, *, labelled: bool = True) -> EmbeddingStore:
        """A store of both splits in view 0; with ``labelled`` every image has to have a class.

        Raises
        ------
        InputError
            If the model or the data cannot be used, or the splits have different classes.
        StoreError
            If a teacher's store is not complete or damaged.
        """
        return self._store_of_views("features.zarr", self._evaluation_views, POLICIES["crop-flip"], labelled=labelled)

    def views(self, count: int, policy: Policy = POLICIES["crop-flip"]) -> EmbeddingStore:
        """A store that has so many random views of the training split besides view 0 of both splits.

        Raises
        ------
        InputError
            As ``features``; also if a teacher's store has fewer views.
        """
        return self._store_of_views("views.zarr", self._evaluation_views | {self._settings.train_split: count}, policy)

    def with_views_at_hand(self, settings: TrainingT) -> TrainingT:
        """The settings with no more random views than a teacher's store has, unless a number was asked for."""
        if not self.is_store or "views" in settings.model_fields_set:
            return settings
        stored = _stored_views(open_store(settings.model)[settings.train_split], is_crops=False)
        if not 0 < stored < settings.views:
            return settings
        logger.info("'%s' has %d random views; they are taken.", settings.model, stored)
        return settings.model_copy(update={"views": stored})

    def crops(self, *, training: bool) -> EmbeddingStore:
        """A store that has the ten fixed crops, as views 1 to 10, of the test split, and of the training split if asked.

        Raises
        ------
        InputError
            As ``features``; also if a teacher's store has other views.
        """
        name = "crops.zarr" if training else "test-crops.zarr"
        views = {self._settings.train_split: CROPS if training else 0, self._settings.test_split: CROPS}
        return self._store_of_views(name, views, TenCrop())

    @cached_property
    def network(self) -> Network:
        """The network, in evaluation mode on the device.

        Raises
        ------
        InputError
            If it is a store, or cannot be read.
        """
        if self.is_store:
            raise InputError(
                f"'{self._settings.model}' is a store of embeddings, and this needs the network itself; give the "
                "network that made it."
            )
        network = load_network(self._settings.model, self._settings.seed)
        network.module.eval().to(self.device)
        return network

    @property
    def description(self) -> dict[str, Any]:
        """What a result says of the network, as a store does."""
        store = self._store or (open_store(self._settings.model) if self.is_store else None)
        if store is not None:
            return dict(store.attributes["teacher"])
        return {"name": self.network.name, **self.network.identity()}

    @property
    def data_set(self) -> dict[str, Any]:
        """What a result says of the images, as a store does; only their name where features were not kept."""
        return {"name": self.data.resolve().name} if self._store is None else dict(self._store.attributes["data_set"])

    @property
    def sizes(self) -> tuple[int, int]:
        """Side of the evaluation view, and short side before its centre crop, in pixels."""
        if self._store is not None:
            view = self._store[self._settings.test_split].views[EVALUATION_VIEW]
            return view["size"], view["policy"]["resize"]
        size = self._settings.size or self.network.preprocessing.size
        return size, self._settings.resize or max(self.network.preprocessing.resize, size)

    @property
    def device(self) -> torch.device:
        """Where to compute; torch is told the number of threads."""
        return prepare_device(self._settings.device, self._settings.thread_count)

    @property
    def renderer(self) -> Renderer:
        """What renders views, as the settings ask for."""
        return make_renderer(self._settings.renderer, self.device, self._settings.thread_count)

    @property
    def data(self) -> Path:
        """The data set.

        Raises
        ------
        InputError
            If none was given.
        """
        if self._settings.data is None:
            raise InputError(
                f"--data is needed to compute the features of '{self._settings.model}'; only a store has them already."
            )
        return self._settings.data

    @property
    def index_folder(self) -> Path:
        """Where what is known of the images is kept: beside the run, where its training keeps it too."""
        return self._settings.index_folder or self.folder.parent / "index"

    @property
    def _evaluation_views(self) -> dict[str, int]:
        """Both splits, with no view besides view 0."""
        return {self._settings.train_split: 0, self._settings.test_split: 0}

    def _store_of_views(
        self, name: str, views: dict[str, int], policy: Policy | TenCrop, *, labelled: bool = True
    ) -> EmbeddingStore:
        """A store of both splits that has so many views of them besides view 0."""
        settings = self._settings
        store = open_store(settings.model) if self.is_store else self._embed(name, views, policy, labelled=labelled)
        self._check_same_classes(store[settings.train_split].class_names, store[settings.test_split].class_names)
        for split, count in views.items():
            self._check_views(store[split], count, is_crops=isinstance(policy, TenCrop))
        if self.is_store and settings.data is not None and self._store is None:
            self._check_images(store, views)
        self._store = store
        return store

    def _check_images(self, store: EmbeddingStore, splits: Iterable[str]) -> None:
        """Check that the data set given beside a store is the store's."""
        settings = self._settings
        for name in splits:
            source = open_source(self.data, store[name].folder, self.index_folder)
            check_same_images(store[name], source, settings.check_content, settings.thread_count, self._progress)

    def _check_views(self, split: Split, count: int, *, is_crops: bool) -> None:
        stored = _stored_views(split, is_crops=is_crops)
        if stored < count:
            what, way = (TEN_CROP, f"with --policy {TEN_CROP}") if is_crops else ("random", "with more --views")
            raise InputError(
                f"Split {split.name} of '{self._settings.model}' has {stored} {what} views, and {count} are asked for; embed "
                f"{way}, or give the network itself."
            )

    def _embed(self, name: str, views: dict[str, int], policy: Policy | TenCrop, *, labelled: bool) -> EmbeddingStore:
        """Run stage one with this network; what an earlier evaluation left is used if it is the same."""
        settings = self._settings
        if labelled:
            self.check_classes()
        shared = set(EmbedSettings.model_fields) & set(type(settings).model_fields)
        wanted = EmbedSettings(
            **{field: getattr(settings, field) for field in shared - {"data", "index_folder", "views", "policy"}},
            data=self.data,
            store=location(self.folder / name),
            index_folder=self.index_folder,
            teacher=settings.model,
            split=tuple(SplitSource(name=split, folder=split, views=count) for split, count in views.items()),
            policy=policy,
            normalise=True,  # whatever their length, float16 holds them; all evaluations look at directions
            resume=True,
        )
        with rank0_first():
            return self._embed_anew_if_other(wanted) if is_rank0() else open_store(wanted.store)

    def _embed_anew_if_other(self, wanted: EmbedSettings) -> EmbeddingStore:
        try:
            return embed(wanted, self._progress)
        except StoreMismatchError:
            logger.info("The features in '%s' are of other images or settings; they are computed again.", wanted.store)
            return embed(wanted.model_copy(update={"resume": False, "overwrite": True}), self._progress)

    def check_classes(self) -> None:
        """Find by the images' names what would end the evaluation when all features have been computed.

        Raises
        ------
        InputError
            If the images have no classes, or the splits have different ones.
        """
        names = (self._settings.train_split, self._settings.test_split)
        listed = list_data_set(self.data, names, self.index_folder, self._settings.labels)
        train, test = (listed[name][1] for name in names)
        for name, listing in (("training", train), ("test", test)):
            if not listing.class_names:
                check_labels(name, listing.labels)
        self._check_same_classes(train.class_names, test.class_names)

    def _check_same_classes(self, train: Sequence[str], test: Sequence[str]) -> None:
        if tuple(train) != tuple(test):
            odd = next(iter(sorted(set(train) ^ set(test))), None)
            what = "number them differently" if odd is None else f"have different classes ('{odd}' is in one only)"
            raise InputError(
                f"Splits {self._settings.train_split} and {self._settings.test_split} {what}; both need the same class "
                "folders."
            )


def _stored_views(split: Split, *, is_crops: bool) -> int:
    """How many random views, or ten-crop ones, a store has of a split besides view 0."""
    names = [view["policy"]["name"] for view in split.views[EVALUATION_VIEW + 1 :]]
    return sum((name == TEN_CROP) is is_crops for name in names)


def _output_folder(settings: EvaluateSettings, is_store: bool) -> Path:
    """A run's own folder; for a store or a checkpoint one beside it."""
    path = Path(settings.model) if is_store else check_reference(settings.model).path
    if settings.output is not None:
        return settings.output
    if is_store and not location(settings.model).is_local:
        raise InputError(f"'{settings.model}' is not on this machine; say by --output where the result goes.")
    if path is None:
        raise InputError(f"'{settings.model}' has no folder of its own; say by --output where the result goes.")
    if not path.exists():
        raise InputError(f"'{settings.model}' does not exist; give a store, {REFERENCE_FORMS}.")
    if path.name == MODEL_FILE:
        return path.parent
    return path if path.is_dir() and not is_store else path.with_name(f"{path.name}.evaluation")
