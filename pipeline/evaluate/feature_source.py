"""The network or store being evaluated: either gives every evaluation its features in the same way.

The features of a network are an embedding store too, written by stage one with that network as the teacher. Those of a
teacher are in its store already, so it is scored without a forward pass, by the same code.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.common.writable import check_writable
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings, SplitSource
from compress_ssl.pipeline.evaluate.evaluations import EVALUATIONS
from compress_ssl.pipeline.evaluate.features import StoredFeatures, check_labels
from compress_ssl.pipeline.evaluate.patch_means import PatchMeans
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings, LinearTraining
from compress_ssl.pipeline.images.data_set import index_data_set, list_data_set, subset_by_folder
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.policies import CROPS, POLICIES, TEN_CROP, Policy, TenCrop
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import Network, check_reference, load_network
from compress_ssl.pipeline.networks.reference import REFERENCE_FORMS, Reference
from compress_ssl.pipeline.training.distributed import is_rank0, rank0_first
from compress_ssl.storage import EmbeddingStore, Split, location, open_store
from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.errors import StoreError, StoreMismatchError
from compress_ssl.storage.parameters import SHRINK
from compress_ssl.storage.places.durable import write_durably
from compress_ssl.storage.publish import is_meant_as_store
from compress_ssl.storage.schema import EVALUATION_VIEW
from compress_ssl.storage.typed_files import read_json

logger = logging.getLogger(__name__)

STORE_IMAGES_FILE = "images-of-the-store.txt"

TrainingT = TypeVar("TrainingT", bound="LinearTraining")


class FeatureSource:
    """One network or store, seen as its settings say.

    Attributes:
        is_store: A store, not a network.
        folder: Where results, features and pictures go.
    """

    def __init__(self, settings: EvaluateSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self.is_store = is_meant_as_store(settings.model)
        if settings.patch_mean and not self.is_store:
            raise InputError(
                f"--patch-mean averages the patches of a store, and '{settings.model}' is none; give a store made with "
                "--patches, or for a ViT --pool avg instead."
            )
        folder = _output_folder(settings, self.is_store)
        self.folder = folder if self.is_store else _folder_of_data_set(folder, settings)
        check_writable(self.folder, "--output")
        self._store: EmbeddingStore | None = None

    def features(self, *, labelled: bool = True) -> EmbeddingStore:
        """Return a store of both splits in view 0; with ``labelled`` every image needs a class.

        Raises:
            InputError: If the model or the dataset cannot be used, or the splits have different classes.
            StoreError: If a teacher's store is incomplete or damaged.
        """
        return self._store_of_views("features.zarr", 0, 0, POLICIES["crop-flip"], labelled=labelled)

    def views(self, count: int, policy: Policy = POLICIES["crop-flip"]) -> EmbeddingStore:
        """Return a store of both splits in view 0, with ``count`` random views of the training split.

        Raises:
            InputError: As ``features``; also if a teacher's store has fewer views.
        """
        return self._store_of_views("views.zarr", count, 0, policy)

    def crops(self, *, training: bool) -> EmbeddingStore:
        """Return a store with the ten fixed crops, as views 1 to 10, of the test split, and optionally of both splits.

        Raises:
            InputError: As ``features``; also if a teacher's store has other views.
        """
        name = "crops.zarr" if training else "test-crops.zarr"
        return self._store_of_views(name, CROPS if training else 0, CROPS, TenCrop())

    def read(self, name: str, split: Split, view: int = EVALUATION_VIEW, *, labelled: bool = True) -> StoredFeatures:
        """Return what is scored of a split in one view: the embeddings, or with ``patch_mean`` means of the patches."""
        return (PatchMeans if self._settings.patch_mean else StoredFeatures)(name, split, view, labelled=labelled)

    def limit_views(self, settings: TrainingT) -> TrainingT:
        """Lower the default number of random views to that of a teacher's store."""
        if not self.is_store or "views" in settings.model_fields_set:
            return settings
        split = open_store(settings.model)[settings.train_split]
        stored = _count_views(split, is_crops=False)
        if settings.patch_mean and split.patches:
            stored = min(stored, len(split.patches.views) - 1)  # view 0 and the first random ones
        if not 0 < stored < settings.views:
            return settings
        with_patches = " with patches" if settings.patch_mean else ""
        logger.info("'%s' has %d random views%s; all of them are used.", settings.model, stored, with_patches)
        return settings.model_copy(update={"views": stored})

    @cached_property
    def network(self) -> Network:
        """The network, in evaluation mode on the device.

        Raises:
            InputError: If the model is a store, or cannot be read.
        """
        if self.is_store:
            raise InputError(
                f"'{self._settings.model}' is a store of embeddings, and this evaluation needs the network itself; "
                "give the network that made it."
            )
        network = load_network(self._settings.model, self._settings.seed, self._settings.pool)
        network.module.eval().to(self.device)
        return network

    @property
    def description(self) -> dict[str, Any]:
        """The network as described in stores and results; its name says so if means of patches are scored."""
        store = self._store or (open_store(self._settings.model) if self.is_store else None)
        if store is not None:
            teacher = dict(store.attributes["teacher"])
            means = {"name": f"{teacher['name']}, mean of patches", "pool": "patches"}
            return teacher | (means if self._settings.patch_mean else {})
        return {"name": self.network.name, **self.network.identity()}

    @property
    def data_set(self) -> dict[str, Any]:
        """The dataset as described in stores and results; only its name if no features were stored."""
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
    def squash(self) -> bool:
        """True if both sides are resized before the evaluation view's centre crop."""
        if self._store is not None:
            return bool(self._store[self._settings.test_split].views[EVALUATION_VIEW]["policy"].get("squash"))
        squash = self._settings.squash
        return self.network.preprocessing.squash if squash is None else squash

    def select_same_images(self) -> dict[str, Any]:
        """Return settings by which another network is evaluated on the same images; list those of a store in a file."""
        if self._store is None or not self.is_store:
            return {}
        splits = [self._store[name] for name in (self._settings.train_split, self._settings.test_split)]
        file = self.folder / STORE_IMAGES_FILE
        write_durably(file, list_of_images(splits).encode())
        return {"train_split": splits[0].folder, "test_split": splits[1].folder, "subset": file, "limit": None}

    @cached_property
    def device(self) -> torch.device:
        """Device to compute on; torch's number of threads is set with it."""
        return prepare_device(self._settings.device, self._settings.thread_count)

    @cached_property
    def renderer(self) -> Renderer:
        """Renderer of views."""
        return make_renderer(self._settings.renderer, self.device, self._settings.thread_count)

    @property
    def data(self) -> Path:
        """The dataset.

        Raises:
            InputError: If none was given.
        """
        if self._settings.data is None:
            raise InputError(
                f"--data is needed to compute the features of '{self._settings.model}'; only a store has them already."
            )
        return self._settings.data

    @property
    def index_folder(self) -> Path:
        """Folder of the image index: beside the run, shared with its training."""
        return self._settings.index_folder or self.folder.parent / "index"

    def index_images(self) -> tuple[ImageIndex, ImageIndex]:
        """Index the images of the training and of the test split.

        Raises:
            InputError: If no dataset was given, or its images cannot be used.
        """
        settings, progress = self._settings, self._progress
        splits = (settings.train_split, settings.test_split)
        selection = settings.model_copy(update={"index_folder": self.index_folder})
        indexes = index_data_set(
            self.data, dict.fromkeys(splits), self.folder, selection, threads=settings.thread_count, progress=progress
        )
        return indexes[settings.train_split], indexes[settings.test_split]

    def check_classes(self) -> None:
        """Check from the image names alone, before any feature is computed, that both splits have the same classes.

        Raises:
            InputError: If the images have no classes, or the splits have different ones.
        """
        names = (self._settings.train_split, self._settings.test_split)
        listed = list_data_set(self.data, names, self.index_folder, self._settings.labels)
        train, test = (listed[name][1] for name in names)
        for name, listing in (("training", train), ("test", test)):
            if not listing.class_names:
                check_labels(name, listing.labels)
        self._check_same_classes(train.class_names, test.class_names)

    def _store_of_views(
        self, name: str, train_views: int, test_views: int, policy: Policy | TenCrop, *, labelled: bool = True
    ) -> EmbeddingStore:
        """Return a store with view 0 and this many other views of each split."""
        settings = self._settings
        views = {settings.train_split: train_views, settings.test_split: test_views}
        store = open_store(settings.model) if self.is_store else self._embed(name, views, policy, labelled=labelled)
        self._check_same_classes(store[settings.train_split].class_names, store[settings.test_split].class_names)
        if self.is_store:
            self._check_selected(store)
            if SHRINK in store[settings.test_split].views[EVALUATION_VIEW]:
                logger.warning(
                    "'%s' has views of images decoded smaller (--scaled-decoding); networks are scored on images "
                    "decoded whole.", settings.model,
                )  # fmt: skip
        is_crops = isinstance(policy, TenCrop)
        for split, count in views.items():
            stored = _count_views(store[split], is_crops=is_crops)
            if stored < count:
                kind, option = (TEN_CROP, f"--policy {TEN_CROP}") if is_crops else ("random", "more --views")
                raise InputError(
                    f"Split {split} of '{settings.model}' has {stored} {kind} views, but {count} are needed; embed "
                    f"with {option}, or give the network itself."
                )
            views_used = store[split].views[EVALUATION_VIEW + 1 :][:count]
            if any(map(is_mixed, views_used)):
                raise InputError(
                    f"Split {split} of '{settings.model}' has views of two mixed images, which have no class of their "
                    "own; score a store of another --policy, or give the network itself."
                )
        if self.is_store and settings.data is not None and self._store is None:
            for split in views:
                images = open_source(settings.data, store[split].folder, self.index_folder)
                check_same_images(store[split], images, settings.check_content, settings.thread_count, self._progress)
        self._store = store
        return store

    def _check_selected(self, store: EmbeddingStore) -> None:
        """Check that the selection of images, if there is one, is the store's, all of whose images are scored."""
        settings = self._settings
        pool = store.attributes["teacher"].get("pool")
        if settings.pool not in ("own", pool):
            raise InputError(
                f"'{settings.model}' holds features pooled by {pool or 'its teacher, which recorded no choice'}, not "
                f"by {settings.pool}; leave --pool out, or give the network itself."
            )
        splits = [store[name] for name in dict.fromkeys((settings.train_split, settings.test_split))]
        listed = subset_by_folder(settings.subset, [split.folder for split in splits]) if settings.subset else {}
        for split in splits:
            images = split.samples.take(np.flatnonzero(split.samples.good)).sample_path
            more = settings.limit is not None and len(images) > settings.limit
            if more or not set(images) <= set(listed.get(split.folder, images)):
                raise InputError(
                    f"Split {split.name} of '{settings.model}' has {len(images):,} images, others than "
                    f"{f'--limit {settings.limit}' if more else '--subset'} selects, and a store is scored on all of "
                    "its images; leave the option out, or embed the images that it selects."
                )
            view = split.views[EVALUATION_VIEW]
            for option, asked, stored in (
                ("--size", settings.size, view["size"]),
                ("--resize", settings.resize, view["policy"].get("resize")),
            ):
                if None not in (asked, stored) and asked != stored:
                    logger.warning("%s %d has no effect on '%s', made with %d.", option, asked, settings.model, stored)
            if settings.squash not in (None, view["policy"].get("squash", False)):
                logger.warning(
                    "--%ssquash has no effect on '%s', made with the other.",
                    "" if settings.squash else "no-", settings.model,
                )  # fmt: skip

    def _embed(self, name: str, views: dict[str, int], policy: Policy | TenCrop, *, labelled: bool) -> EmbeddingStore:
        """Run stage one with this network; features of an earlier evaluation are reused if nothing has changed."""
        settings = self._settings
        if labelled:
            self.check_classes()
        shared = set(EmbedSettings.model_fields) & set(type(settings).model_fields)
        wanted = EmbedSettings(
            **{
                field: getattr(settings, field)
                for field in shared - {"data", "index_folder", "views", "policy", "renderer"}
            },
            renderer="dali" if settings.renderer == "auto" else settings.renderer,
            data=self.data,
            store=location(self.folder / name),
            index_folder=self.index_folder,
            teacher=settings.model,
            split=tuple(SplitSource(name=split, folder=split, views=count) for split, count in views.items()),
            policy=policy,
            normalise=True,  # whatever their length, float16 holds them; all evaluations use directions only
            resume=True,
        )
        with rank0_first():
            if not is_rank0():
                return open_store(wanted.store)
            try:
                return embed(wanted, self._progress)
            except StoreMismatchError:
                logger.info("The features in '%s' are of other images or settings; they are recomputed.", wanted.store)
                return embed(wanted.model_copy(update={"resume": False, "overwrite": True}), self._progress)

    def _check_same_classes(self, train: Sequence[str], test: Sequence[str]) -> None:
        if tuple(train) != tuple(test):
            odd = next(iter(sorted(set(train) ^ set(test))), None)
            what = "number them differently" if odd is None else f"have different classes ('{odd}' is in one only)"
            raise InputError(
                f"Splits {self._settings.train_split} and {self._settings.test_split} {what}; both need the same class "
                "folders."
            )


def list_of_images(splits: Iterable[Split]) -> str:
    """Return the good images of splits as a list that ``subset`` takes, a line each."""
    lines = []
    for split in splits:
        images = split.samples.take(np.flatnonzero(split.samples.good)).sample_path
        lines += [image if split.folder == "." else f"{split.folder}/{image}" for image in images]
    return "".join(f"{line}\n" for line in lines)


def _count_views(split: Split, *, is_crops: bool) -> int:
    """Count the stored random views of a split, or its ten-crop ones, view 0 excluded."""
    names = [view["policy"]["name"] for view in split.views[EVALUATION_VIEW + 1 :]]
    return sum((name == TEN_CROP) is is_crops for name in names)


def _folder_of_data_set(folder: Path, settings: EvaluateSettings) -> Path:
    """Return the folder, or one in it with the dataset's name if its result of this evaluation is of another dataset.

    Raises:
        InputError: If there is one, and the folder was given by ``output``.
    """
    path = folder / next(each.file for each in EVALUATIONS.values() if type(settings) is each.settings)
    name = settings.data.resolve().name if settings.data else None
    try:
        before = read_json(path, dict[str, Any])["data_set"]["name"]
    except (OSError, StoreError, LookupError, TypeError):
        return folder
    if name in (None, before):
        return folder
    if settings.output is not None:
        raise InputError(f"'{path}' is a result on {before}, which one on {name} would replace; give another --output.")
    return folder / str(name)


def _output_folder(settings: EvaluateSettings, is_store: bool) -> Path:
    """Return the run's own folder; for a store or a checkpoint a folder beside it."""
    _, _, path, part = Reference("file", None, Path(settings.model)) if is_store else check_reference(settings.model)
    if settings.output is not None:
        return settings.output
    if is_store and not location(settings.model).is_local:
        raise InputError(f"'{settings.model}' is not on this machine; give a folder for the results with --output.")
    if path is None:
        raise InputError(f"'{settings.model}' has no folder; give one for the results with --output.")
    if not path.exists():
        raise InputError(f"'{settings.model}' does not exist; give a store, {REFERENCE_FORMS}.")
    if path.name == MODEL_FILE:
        return path.parent
    return (
        path
        if path.is_dir() and not is_store
        else path.with_name(f"{path.name}{f'.{part}' if part else ''}.evaluation")
    )
