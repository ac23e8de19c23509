"""embed --patches: what is written, resumed, merged, grown, computed on Dask and computed again."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from sklearn.decomposition import PCA

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.fit_patches import principal_components, reconstruction_cosine
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.reembed import reembed
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.storage import EmbeddingStore, location, open_store
from compress_ssl.storage.commits import commit_block, part_of
from compress_ssl.storage.errors import StoreMismatchError
from compress_ssl.storage.parameters import COLUMN
from compress_ssl.storage.patches import dequantise
from compress_ssl.storage.schema import patch_unit, unit_keys
from compress_ssl.storage.tools.merge import merge_stores, plan_merge
from compress_ssl.storage.tools.verify import verify_store
from tests.processes import Forked, run_command_until
from tests.reliability.hostile_augmentation import make_writable

PATCHES: dict[str, Any] = {"teacher": "random/timm/test_vit", "size": 64, "resize": 64, "patches": 8, "patch_grid": 3}

Embedded = Callable[..., EmbeddingStore]


@pytest.fixture(scope="module")
def images_and_store(
    images: Callable[..., Path], embedded: Embedded, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EmbeddingStore]:
    root = tmp_path_factory.mktemp("patches")
    data = images(root / "data")
    return data, embedded(data, root / "store.zarr", **PATCHES)


def same_patches(first: EmbeddingStore, second: EmbeddingStore) -> bool:
    """Compare all codes, scales, embeddings and bases, bit for bit."""
    return all(
        np.array_equal(one, other, equal_nan=True)
        for name in first.split_names
        for a, b in [(first[name], second[name])]
        for one, other in [
            *zip(a.patch_basis, b.patch_basis, strict=True),
            *[
                pair
                for view in a.complete_patch_views
                for pair in zip(a.patch_view(view), b.patch_view(view), strict=True)
            ],
            *[(a.view(view), b.view(view)) for view in a.complete_views],
        ]
    )


def files(store: Any) -> dict[str, bytes]:
    root = Path(str(store))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def record(split: Path, unit: str, blocks: int) -> None:
    """Commit the parts of a unit as they are."""
    (split / f"embeddings/commits/{unit}.json").unlink()
    for block in range(blocks):
        parts = {key: part_of((split / key).read_bytes()) for key in unit_keys(unit, block)}
        commit_block(location(split), unit, block, parts, None)


def cosine(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    return float((one * other.ravel()).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_patches_stand_for_the_pooled_tokens_of_the_same_view(images_and_store: tuple[Path, EmbeddingStore]) -> None:
    data, store = images_and_store
    split = store["train"]
    assert split.patches is not None
    assert (split.patches.grid, split.patches.components, split.patches.channels) == (3, 8, 64)
    assert (split.patches.views, split.patches.fitted_on) == ((0, 1, 2), 36)
    mean, basis = split.patch_basis
    network = load_network(PATCHES["teacher"])
    renderer = make_renderer("dali", torch.device("cpu"), 1)
    for view in (0, 2):
        job = RenderJob.of(
            open_source(data, "train"), split.samples, np.arange(36), parameters=split.augmentation(view)[:, None],
            sizes=(64,), view=split.views[0],
        )  # fmt: skip
        (pixels,) = next(render(renderer, job, 36))
        with torch.inference_mode():
            tokens = network.module.eval().forward_features(network.preprocessing.normalize(pixels))  # type: ignore[operator]
        grid = tokens[:, 1:].numpy().reshape(36, 4, 4, 64)
        # Cells of adaptive pooling from 4 to 3: rows 0-1, 1-2, 2-3.
        cells = [grid[:, r : r + 2, c : c + 2].mean(axis=(1, 2)) for r in range(3) for c in range(3)]
        exact = (np.stack(cells, axis=1) - mean) @ basis.T
        codes, scale = split.patch_view(view)
        assert np.all(np.abs(dequantise(codes, scale) - exact) <= scale[..., None] * 0.51)


def test_the_recorded_cosine_is_that_of_the_sample(images_and_store: tuple[Path, EmbeddingStore]) -> None:
    _, store = images_and_store
    info = store["train"].patches
    assert info is not None
    assert 0.5 < info.explained_variance < 1
    assert 0.5 < info.reconstruction_cosine < 1
    assert store["val"].patches is not None
    assert store["val"].patches.views == (0,)
    for ours, theirs in zip(store["train"].patch_basis, store["val"].patch_basis, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_components_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    positions = (generator.normal(size=(500, 12)) * np.geomspace(9, 0.1, 12) + generator.normal(size=12)).astype("f4")
    mean, basis, share = principal_components(positions, 5)
    pca = PCA(5, svd_solver="full").fit(positions.astype(np.float64))
    np.testing.assert_allclose(mean, pca.mean_, atol=1e-6)
    signs = np.sign((basis * pca.components_).sum(axis=1))
    np.testing.assert_allclose(basis, pca.components_ * signs[:, None], atol=1e-5)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-6)
    kept = pca.inverse_transform(pca.transform(positions))
    cosines = (positions * kept).sum(axis=1) / np.linalg.norm(positions, axis=1) / np.linalg.norm(kept, axis=1)
    assert reconstruction_cosine(positions, mean, basis) == pytest.approx(cosines.mean(), abs=1e-4)


def test_a_store_that_was_killed_between_embeddings_and_patches_ends_as_one_that_was_not(
    images_and_store: tuple[Path, EmbeddingStore], tmp_path: Path, embedded: Embedded
) -> None:
    data, whole = images_and_store
    words = ("--teacher", PATCHES["teacher"], "--size", "64", "--resize", "64", "--patches", "8", "--patch-grid", "3",
             "--split", "train", "--split", "val:0", "--views", "2", "--batch-size", "5", "--threads", "1",
             "--block-rows", "9")  # fmt: skip
    half = tmp_path / "half.zarr"
    kill_at = (r"os\.rename .*half\.zarr/train/patches/c/", 2, 0.0)
    process = Forked(run_command_until, kill_at, "embed", str(data), str(half), *words)
    assert process.wait() == -signal.SIGKILL, process.errors
    split = open_store(half)["train"]
    assert any(set(split.committed(str(view))) - set(split.committed(patch_unit(view))) for view in range(3))
    with pytest.raises(StoreMismatchError, match="was made with patches = 8, now it is None"):
        embedded(data, half, resume=True, **{**PATCHES, "patches": None, "patch_grid": None})
    with pytest.raises(StoreMismatchError, match="views with patches"):
        embedded(data, half, resume=True, patch_views=1, **PATCHES)
    resumed = embedded(data, half, resume=True, **PATCHES)
    assert files(resumed.path) == files(whole.path)


def test_parts_of_two_machines_make_the_bytes_of_one_run(
    images_and_store: tuple[Path, EmbeddingStore], tmp_path: Path, embedded: Embedded
) -> None:
    data, whole = images_and_store
    parts = [embedded(data, tmp_path / f"{part}.zarr", part=f"{part}/2", **PATCHES) for part in (1, 2)]
    merge_stores(plan_merge(parts), tmp_path / "all.zarr", lambda count: None)
    assert files(tmp_path / "all.zarr") == files(whole.path)


def test_patches_computed_again_agree_and_those_of_other_images_do_not(
    images_and_store: tuple[Path, EmbeddingStore], tmp_path: Path
) -> None:
    data, whole = images_and_store
    settings = VerifySettings(teacher=PATCHES["teacher"], data=data, threads=1, device="cpu")
    agreements = reembed(whole, settings, Silent())
    assert [(each.split, each.of, each.images) for each in agreements] == [
        *(("train", of, 36) for of in ("embeddings", "patches")), *(("val", of, 8) for of in ("embeddings", "patches"))
    ]  # fmt: skip
    assert all(each.cosine_min > 0.99999 for each in agreements)
    forged = Path(shutil.copytree(str(whole.path), tmp_path / "forged.zarr"))
    make_writable(forged)
    codes = zarr.open_array(str(forged / "val/patches"), mode="r+")
    codes[0] = np.roll(codes[0], 1, axis=0)
    record(forged / "val", patch_unit(0), open_store(forged)["val"].block_count)
    assert verify_store(open_store(forged)).ok
    *_, embeddings, patches = reembed(open_store(forged), settings, Silent())
    assert (embeddings.ok, patches.ok) == (True, False)
    other = VerifySettings(teacher="random/timm/vit_tiny_patch16_224", data=data, threads=1, device="cpu")
    with pytest.raises(InputError, match=r"map has 192 channels of 4 x 4 positions, .* have 64 of 3 x 3"):
        reembed(whole, other, Silent())


def test_a_flipped_view_has_the_grid_of_the_flipped_image_and_not_the_mirrored_one(
    photographs: Path, efficientnet_lite0: str, tmp_path: Path, embedded: Embedded
) -> None:
    given = {"size": 224, "resize": 256, "limit": 4, "split": ("train",), "views": 2, "patches": 32}
    split = embedded(photographs, tmp_path / "store.zarr", teacher=efficientnet_lite0, **given)["train"]
    network = load_network(efficientnet_lite0)
    renderer, source = make_renderer("dali", torch.device("cpu"), 1), open_source(photographs, "train")
    mean, basis = split.patch_basis
    module: Any = network.module.eval()
    seen = 0
    for view in (1, 2):
        parameters = split.augmentation(view)
        rows = np.flatnonzero(parameters[:, COLUMN["flip"]] == 1)
        if not len(rows):
            continue
        parameters[:, COLUMN["flip"]] = 0
        job = RenderJob.of(
            source, split.samples, rows, parameters=parameters[rows][:, None], sizes=(224,), view=split.views[0]
        )
        ((pixels,),) = render(renderer, job, 4)
        with torch.inference_mode():
            ours, plain = (
                module.forward_features(network.preprocessing.normalize(each)).permute(0, 2, 3, 1).numpy()
                for each in (pixels.flip(2), pixels)
            )
        stored = dequantise(*split.patch_view(view))[rows].reshape(len(rows), -1)
        for row, flipped, mirrored in zip(stored, ours, plain[:, :, ::-1], strict=True):
            assert cosine(row, (flipped - mean) @ basis.T) > 0.999
            assert cosine(row, (mirrored - mean) @ basis.T) < 0.99
        seen += len(rows)
    assert seen > 1


def test_dask_workers_write_the_same_patches(
    images_and_store: tuple[Path, EmbeddingStore], tmp_path: Path, embedded: Embedded
) -> None:
    data, whole = images_and_store
    assert same_patches(whole, embedded(data, tmp_path / "dask.zarr", workers=2, device="cpu", **PATCHES))


def test_new_images_and_new_views_get_patches_by_the_stores_basis(tmp_path: Path, images: Callable[..., Path]) -> None:
    data, path = images(tmp_path / "data", train=20), tmp_path / "grown.zarr"
    shared = {"data": data, "store": path, "teacher": PATCHES["teacher"], "batch_size": 5, "threads": 1}
    split = {"split": ("train",), "views": 1, "block_rows": 9}
    begun = embed(EmbedSettings(**{**shared, **split, **PATCHES}), Silent())["train"].patch_basis
    images(tmp_path / "data", train=24)
    grown = embed(EmbedSettings(**shared, add_images=True, add_views=1), Silent())["train"]
    assert grown.patches is not None
    assert grown.patches.views == (0, 1, 2)
    assert grown.complete_patch_views == [0, 1, 2]
    codes, scale = grown.patch_view(2)
    assert np.isfinite(scale[grown.samples.good]).all()
    assert codes[grown.samples.good].any(axis=(1, 2)).all()
    for before, after in zip(begun, grown.patch_basis, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_grid": 5}, "The map is 4 x 4; --patch-grid must be at most 4"),
        ({"patches": 65}, "--patches 65 is more than the 64 channels of the map"),
    ],
)
def test_impossible_patches_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, embedded: Embedded, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        embedded(data, tmp_path / "none.zarr", **{**PATCHES, **given})
    assert not (tmp_path / "none.zarr").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_grid": 3}, "do nothing without --patches"),
        ({"patches": 4, "patch_views": 5}, "--patch-views 5 is more than the 4 random views"),
        ({"patches": 4, "add_images": True}, "writes patches as the store has them"),
    ],
)
def test_options_that_do_nothing_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbedSettings(data=tmp_path, store=tmp_path / "s.zarr", teacher="random/resnet18", **given)
