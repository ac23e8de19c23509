"""The kinds of files that the tool reads, each with real files, and the commands or functions that read them."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.importing.matrix import open_matrix
from compress_ssl.pipeline.export.origin import read_origin
from compress_ssl.pipeline.images.index import index_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.text import add_labels
from compress_ssl.pipeline.images.sources.voc import read_annotation
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.storage import open_store
from compress_ssl.storage.places.cache import ChunkCache
from compress_ssl.storage.places.connection import client
from compress_ssl.storage.places.place import lease_holder, writer_lease
from compress_ssl.storage.schema import BASIS_ARRAYS, PATCH_ARRAYS, SAMPLE_ARRAYS
from compress_ssl.storage.tools.growth import is_growing, resume_growth
from compress_ssl.storage.tools.verify import verify_store
from tests.reliability.fuzz_files import VARIABLES, Refused, call
from tests.reliability.mutations import BYTES, Mutation, retyped, reworded

Answer: TypeAlias = dict[str, Any]  # what was read, by name; comparable


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    files: Sequence[str]  # patterns of the files to harm, relative to the work folder
    read: Callable[[], Answer]  # in the work folder; writes to ``out`` only
    mutations: Sequence[Mutation] = BYTES
    checked: bool = False
    """Whether what is read must be what was written, or be refused: there is a checksum, or the rows are elsewhere."""
    cost: int = 1  # tenths of a second of a case, about


def digest(values: Any) -> str:
    array = np.ascontiguousarray(values)
    return xxhash.xxh3_64_hexdigest(repr((array.dtype, array.shape)).encode() + array.tobytes())


def rows(place: str) -> Answer:
    """Digests of all arrays of a store."""
    found = {}
    for split in open_store(place).splits:
        for view in split.complete_views:
            found[f"{split.name} {view}"] = digest(split.view(view))
            found[f"{split.name} {view} augmentation"] = digest(split.augmentation(view))
        for view in split.complete_patch_views:
            for name, values in zip(PATCH_ARRAYS, split.patch_view(view), strict=True):
                found[f"{split.name} {view} {name}"] = digest(values)
        for name, values in zip(BASIS_ARRAYS, split.patch_basis if split.patches else (), strict=False):
            found[f"{split.name} {name}"] = digest(values)
        for name in SAMPLE_ARRAYS:
            values = getattr(split.samples, name)
            found[f"{split.name} {name}"] = digest(np.array(values, str) if name == "sample_path" else values)
    return found


def store() -> Answer:
    call("store", "list", "stores")
    answer = rows("stores/whole.zarr")
    call("store", "info", "stores/whole.zarr")
    call("store", "card", "stores/whole.zarr")
    verify_store(open_store("stores/whole.zarr"))
    return answer


def patched() -> Answer:
    answer = rows("patched.zarr")
    call("store", "info", "patched.zarr")
    verify_store(open_store("patched.zarr"))
    return answer


def trained_from_store() -> Answer:
    words = "--student conv4-16 --objective reg --epochs 1 --batch-size 8 --threads 1 --device cpu"
    call("distill", "stores/whole.zarr", "images", "out/run", *words.split())
    return {}


def copy(source: str, target: str) -> None:
    """Copy a folder, with links as links."""
    if any(path.lstat().st_size > 2**30 for path in Path(source).rglob("*")):
        raise Refused("Error: of this script: a huge file takes too long to copy")
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=shutil.copyfile)
    except shutil.Error as error:
        raise Refused(f"Error: {error}") from error  # of this script: shutil copies no FIFO


def grown() -> Answer:
    copy("growing.zarr", "out/growing.zarr")
    if is_growing(open_store("out/growing.zarr").attributes):
        resume_growth("out/growing.zarr")
    return rows("out/growing.zarr")


def leased() -> Answer:
    lease_holder("stores/whole.zarr")
    with writer_lease("stores/whole.zarr"):
        return {}


def imported() -> Answer:
    call("store", "import", "whole.h5", "out/imported.zarr")
    return rows("out/imported.zarr")


def matrices() -> Answer:
    found = {}
    for path in sorted(Path("matrices").iterdir()):
        matrix = open_matrix(path)
        found[path.name] = digest(matrix.rows(np.arange(matrix.values.shape[0])))
    return found


def imported_matrix() -> Answer:
    words = "--data images --teacher mine --paths lists/paths.txt --size 16 --resize 16 --index-folder out/index"
    call("store", "import", "train=matrices/m.npy", "out/store.zarr", *words.split())
    return {}


def images_of(data: str, split: str = "train") -> Answer:
    source = open_source(Path(data), split)
    listing = source.listing()
    read = {path: digest(np.frombuffer(source.read(path), np.uint8)) for path in listing.paths}
    return {**read, "labels": listing.labels.tolist(), "classes": listing.class_names}


def labelled() -> Answer:
    listing = open_source(Path("flat"), "train").listing()
    return {name: add_labels({"train": listing}, Path("lists", name))["train"][1].tolist() for name in LABELS}


LABELS = ("labels.txt", "labels.csv")


def decoded() -> Answer:
    words = "--teacher random/conv4-16 --size 16 --resize 16 --views 1 --split train --on-bad-image skip"
    call("embed", "kinds", "out/store.zarr", *words.split(), "--index-folder", "out/index", "--threads", "1")
    return {}


def indexed() -> Answer:
    source = open_source(Path("images"), "train")
    index = index_images(source, source.listing(), Path("caches/train.npz"), threads=1, progress=Silent())
    tars = open_source(Path("tars"), "train", Path("caches"))
    return {"print": index.fingerprint(), "sizes": index.samples.image_size.tolist(), "tars": tars.listing().paths}


def networks() -> Answer:
    return {path.name: weights_sha256(load_network(str(path)).module) for path in sorted(Path("weights").iterdir())}


def foreign_networks() -> Answer:
    return {path.name: load_network(f"resnet18:{path}").feature_dim for path in sorted(Path("foreign").iterdir())}


def resumed() -> Answer:
    copy("interrupted", "out/run")
    is_begun = Path("out/run/checkpoint.pt").is_file()
    words = "--student conv4-16 --milestones 1 --objective reg --epochs 3 --batch-size 8 --keep-every 1 --resume"
    call("distill", "stores/whole.zarr", "images", "out/run", *words.split(), "--threads", "1", "--device", "cpu")
    if not is_begun:
        raise Refused("Error: of this script: training started over, with the last bits of this machine")
    return {"weights": weights_sha256(load_network("out/run").module)}


def exported() -> Answer:
    origin = read_origin("finished", weights_sha256(load_network("finished").module))
    call("export", "finished", "out/exported")
    return {"teachers": len(origin.teachers)}


def overwritten_export() -> Answer:
    copy("exported", "out/exported")
    call("export", "finished", "out/exported", "--overwrite")
    return {}


def planned() -> Answer:
    call("run", "recipe.toml", "--dry-run", "--json")
    return {}


def tabled() -> Answer:
    """Results of steps that are up to date; a step that is not would be run, and is a matter of ``planned``."""
    if all(step["action"] == "skip" for step in json.loads(call("run", "recipe.toml", "--dry-run", "--json"))["steps"]):
        call("run", "recipe.toml")
    return {}


def annotated() -> Answer:
    annotation = read_annotation(Path("voc.xml"), height=375, width=500)
    return {"classes": annotation.classes}


def clients() -> Answer:
    for root in ("https://example.invalid", "s3://bucket"):
        client.cache_clear()
        client(root)
    return {}


def environment() -> Answer:
    """The file ``environment`` holds variables, a line each, that are set meanwhile."""
    lines = [line.partition("=") for line in Path("environment").read_text(errors="replace").splitlines()]
    given = {name: value.replace("\0", "") for name, _, value in lines if name in VARIABLES}
    before = dict(os.environ)
    os.environ.update(given)
    try:
        ChunkCache()
        clients()
        call("store", "info", "stores/whole.zarr")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {}


TREE = (retyped, retyped, retyped, *BYTES)
TEXT = (reworded, reworded, *BYTES)
TRAINED = ("stores/whole.zarr/zarr.json", "stores/whole.zarr/train/zarr.json")

KINDS = {
    "zarr.json of a root": Kind(["stores/whole.zarr/zarr.json"], store, TREE, checked=True),
    "zarr.json of a split": Kind(["stores/whole.zarr/*/zarr.json"], store, TREE, checked=True),
    "zarr.json of an array": Kind(["stores/whole.zarr/*/*/zarr.json"], store, TREE, checked=True),
    "commit records": Kind(["stores/whole.zarr/*/embeddings/commits/**/*.json"], store, TREE, checked=True),
    "chunks": Kind(["stores/whole.zarr/*/*/c/**/*"], store, checked=True),
    "metadata of patches and mixed views": Kind(
        ["patched.zarr/**/zarr.json", "patched.zarr/*/embeddings/commits/**/*.json"], patched, TREE, checked=True
    ),
    "chunks of patches and mixed views": Kind(
        ["patched.zarr/*/patch*/c/**/*", "patched.zarr/*/augmentation/c/**/*"], patched, checked=True
    ),
    "attributes in a training": Kind(TRAINED, trained_from_store, TREE, cost=15),
    "growth": Kind(["growing.zarr/zarr.json", "growing.zarr/train/zarr.json"], grown, TREE, checked=True),
    "leases": Kind(["stores/whole.zarr.lease"], leased, TREE),
    "HDF5 stores": Kind(["whole.h5"], imported, checked=True, cost=3),
    "matrices": Kind(["matrices/*", "matrices/m.zarr/**/*"], matrices),
    "lists of a matrix's rows": Kind(["lists/paths.txt", "matrices/m.npy"], imported_matrix, TEXT, cost=3),
    "tars": Kind(["tars/train/*.tar"], lambda: images_of("tars")),
    "packs": Kind(["pack.h5"], lambda: images_of("pack.h5"), checked=True),
    "lists of images": Kind(["listed/train.txt"], lambda: images_of("listed"), TEXT),
    "labels": Kind([f"lists/{name}" for name in LABELS], labelled, TEXT),
    "images": Kind(["kinds/train/*/*"], decoded, cost=8),
    "index caches": Kind(["caches/*"], indexed, checked=True),
    "networks of ours": Kind(["weights/*"], networks, checked=True),
    "checkpoints of others": Kind(["foreign/*"], foreign_networks, cost=3),
    "checkpoints of a run": Kind(["interrupted/checkpoint.pt"], resumed, checked=True, cost=15),
    "settings and metrics of a run": Kind(["interrupted/*.json*"], resumed, TREE, cost=15),
    "records for a card": Kind(["finished/*.json", "evaluation/*/*.json"], exported, TREE, cost=3),
    "manifests of exports": Kind(["exported/export.json"], overwritten_export, TREE, cost=3),
    "recipes": Kind(["recipe.toml"], planned, TEXT),
    "records of steps": Kind(["recipe/steps/*.json"], planned, TREE),
    "results": Kind(["recipe/evaluation/*/*.json"], tabled, TREE, cost=3),
    "VOC annotations": Kind(["voc.xml"], annotated, TEXT),
    "credentials": Kind(["home/.netrc", "home/.aws/*"], clients, TEXT),
    "environment variables": Kind(["environment"], environment, (reworded,)),
}
