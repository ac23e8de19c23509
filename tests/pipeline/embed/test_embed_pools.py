"""Pool and squash in stores: recorded, resumed, verified, extended and replayed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_student
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.reembed import reembed
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.parameters import evaluation_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.stored_views import check_views
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.networks.timm_models import timm_preprocessing
from compress_ssl.storage import EmbeddingStore, open_store
from compress_ssl.storage.errors import StoreMismatchError
from tests.tiny_timm import TINY_DINOV3

Embedded = Callable[..., EmbeddingStore]

VIT: dict[str, Any] = {"size": 32, "resize": 40, "views": 1, "renderer": "torchvision"}


@pytest.fixture
def published(tmp_path: Path) -> str:
    """The reference of a tiny DINOv3 in a file."""
    save_file(load_network(f"random/{TINY_DINOV3}").module.state_dict(), tmp_path / "nano.safetensors")
    return f"{TINY_DINOV3}:{tmp_path / 'nano.safetensors'}"


def as_of_an_earlier_release(store: Path) -> None:
    """Remove the pool from a store's attributes."""
    path = store / "zarr.json"
    content = json.loads(path.read_text())
    del content["attributes"]["teacher"]["pool"]
    path.chmod(0o644)
    path.write_text(json.dumps(content))


def test_each_pool_is_stored_as_its_network_computes_it_and_recorded(
    data: Path, tmp_path: Path, embedded: Embedded, published: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = {}
    for pool in ("own", "token", "avg", "token+avg"):
        caplog.clear()
        store = embedded(data, tmp_path / f"{pool}.zarr", teacher=published, pool=pool, **VIT)
        expected = "token" if pool == "own" else pool
        assert store.attributes["teacher"]["pool"] == expected
        warned = [message for message in caplog.messages if "; --pool own is token: these are two teachers" in message]
        assert len(warned) == (expected != "token")
        found[pool] = store["train"].view(0)
    assert np.array_equal(found["own"], found["token"])
    assert np.array_equal(found["token+avg"], np.concatenate([found["token"], found["avg"]], axis=1))
    assert not np.allclose(found["token"].astype(np.float32), found["avg"].astype(np.float32), atol=0.1)


def test_another_pool_does_not_continue_a_store_and_verify_takes_the_store_s(
    data: Path, tmp_path: Path, embedded: Embedded, published: str
) -> None:
    path = tmp_path / "avg.zarr"
    machine: dict[str, Any] = {"threads": 1, "renderer": "torchvision"}
    store = embedded(data, path, teacher=published, pool="avg", **VIT)
    for pool, now in [("own", "token"), ("token+avg", r"token\+avg")]:
        with pytest.raises(StoreMismatchError, match=f"was made with pool = 'avg', now it is '{now}'; use the"):
            embedded(data, path, teacher=published, pool=pool, resume=True, **VIT)
    given = {"teacher": published, "data": data, "sample": 4, "threads": 1}
    assert all(each.cosine_min > 0.9999 for each in reembed(store, VerifySettings(**given), Silent()))
    grown = embed(EmbedSettings(data=data, store=path, teacher=published, add_views=1, **machine), Silent())
    assert grown.attributes["teacher"]["pool"] == "avg"
    assert len(grown["train"].views) == 3


def test_a_store_without_a_pool_was_made_as_timm_pools_and_is_resumed_so(
    data: Path, tmp_path: Path, embedded: Embedded, published: str
) -> None:
    path = tmp_path / "early.zarr"
    embedded(data, path, teacher=published, pool="avg", **VIT)
    as_of_an_earlier_release(path)
    with pytest.raises(StoreMismatchError, match="was made with pool = 'avg', now it is 'token'"):
        embedded(data, path, teacher=published, resume=True, **VIT)
    embedded(data, path, teacher=published, pool="avg", resume=True, **VIT)
    assert "pool" not in open_store(path).attributes["teacher"]
    settings = EmbedSettings(data=data, store=path, teacher=published, add_views=1, threads=1, renderer="torchvision")
    grown = embed(settings, Silent())  # the pool is the store's, as all else
    assert len(grown["train"].views) == 3
    given = {"teacher": published, "data": data, "sample": 4, "threads": 1}
    assert all(each.cosine_min > 0.9999 for each in reembed(open_store(path), VerifySettings(**given), Silent()))


def test_an_evaluation_pools_as_asked_and_a_store_s_pool_is_not_changed(
    data: Path, tmp_path: Path, embedded: Embedded, published: str
) -> None:
    shared = {"data": data, "size": 32, "resize": 40, "threads": 1, "neighbours": (3,)}
    for pool in ("token", "avg"):
        store = tmp_path / f"{pool}.zarr"
        embedded(data, store, teacher=published, pool=pool, normalise=True, **VIT | {"renderer": "dali"})
        of_store = evaluate(KnnSettings(model=str(store), threads=1, neighbours=(3,), pool=pool), Silent()).result
        settings = KnnSettings(model=published, pool=pool, output=tmp_path / pool, **shared)
        evaluated = evaluate(settings, Silent())
        assert evaluated.result == of_store
        record = json.loads(evaluated.path.read_text())
        assert record["network"]["pool"] == record["settings"]["pool"] == pool
    with pytest.raises(InputError, match=r"holds features pooled by avg, not by token; leave --pool out, or give the"):
        evaluate(KnnSettings(model=str(store), threads=1, pool="token"), Silent())


@pytest.mark.parametrize("sides", [(375, 500), (500, 333), (224, 224), (300, 1000), (64, 90)])
def test_squashed_pixels_are_those_of_timm_s_evaluation_of_siglip(tmp_path: Path, sides: tuple[int, int]) -> None:
    name = "vit_base_patch16_siglip_224.webli"
    wants = timm_preprocessing(name)
    assert wants.squash
    assert timm_preprocessing("vit_so400m_patch14_siglip_378.webli_ft_in1k").squash  # timm's crop_mode
    assert not timm_preprocessing("vit_small_patch16_dinov3.lvd1689m").squash
    config = timm.get_pretrained_cfg(name).to_dict()
    theirs = create_transform(
        input_size=config["input_size"],
        crop_pct=config["crop_pct"],
        crop_mode="squash",  # its authors', where timm keeps the aspect ratio
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        is_training=False,
        normalize=False,
    )
    pixels = np.random.default_rng(0).integers(0, 255, (sides[0] // 8, sides[1] // 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(sides[::-1], Image.Resampling.BICUBIC)
    (tmp_path / "all").mkdir()
    image.save(tmp_path / "all" / "a.png")
    index = index_data_set(tmp_path, ["all"], tmp_path / "out", ImageSelection(), threads=1, progress=Silent())["all"]
    views = evaluation_parameters(index.samples.image_size, wants.resize, wants.size, wants.squash)[:, None]
    job = RenderJob.of(
        index.source,
        index.samples,
        np.array([0]),
        parameters=views,
        sizes=(wants.size,),
        interpolation=wants.interpolation,
    )
    ((ours,),) = render(make_renderer("torchvision", torch.device("cpu"), 1), job, 1)
    expected = theirs(image).permute(1, 2, 0)
    assert ours[0].shape == expected.shape
    assert torch.equal(ours[0], expected)


def test_squash_is_recorded_replayed_inherited_and_extended(
    data: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "squashed.zarr"
    store = embedded(data, path, squash=True)
    policy = {"name": "evaluation", "resize": 20, "squash": True}
    assert [store[split].views[0]["policy"] for split in ("train", "val")] == [policy, policy]
    assert "View 0 shows images squashed to a square; by its own preprocessing conv4-16, untrained sees" in caplog.text
    check_views(store["train"])
    assert (store["train"].augmentation(0)[:, [4, 5]] == 20).all()
    student = build_student(
        DistillSettings(store=path, data=data, run=tmp_path / "run", student="conv4-16"), store["train"], 16
    )
    assert student.preprocessing.squash
    embedded(data, path, squash=True, resume=True)
    with pytest.raises(StoreMismatchError, match=r"the policy of view 0 = .*'squash': True.*, now it is"):
        embedded(data, path, squash=False, resume=True)
    grown = embed(EmbedSettings(data=data, store=path, teacher="random/conv4-16", add_views=1, threads=1), Silent())
    assert grown["train"].views[0]["policy"] == policy
    whole = embedded(data, tmp_path / "whole.zarr")
    assert whole["train"].views[0]["policy"] == {"name": "evaluation", "resize": 20}
    assert not np.array_equal(whole["train"].view(0), grown["train"].view(0))
    assert np.array_equal(whole["train"].view(1), grown["train"].view(1))
