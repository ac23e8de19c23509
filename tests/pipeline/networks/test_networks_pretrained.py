"""Published weights by name: they come with their preprocessing, or a sentence names what to do."""

import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.network import load_network


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hugging Face hub, and no hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, model: str) -> Path:
    """Where the hub's cache keeps a model's file."""
    repository = cache / f"models--{timm.get_pretrained_cfg(model).hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "snapshots" / "0123abc").mkdir(parents=True)
    return repository / "snapshots" / "0123abc" / "model.safetensors"


def test_timm_s_weights_come_with_what_they_want_to_see(hub_cache: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    save_file(theirs.state_dict(), cached(hub_cache, name), {"format": "pt"})
    network = load_network(f"timm/{name}")
    assert (network.name, network.architecture, network.feature_dim) == (f"timm {name}", f"timm/{name}", 192)
    wants = network.preprocessing
    assert (wants.mean, wants.size, wants.resize, wants.interpolation) == ((0.5, 0.5, 0.5), 224, 248, "bicubic")
    assert network.identity()["interpolation"] == "bicubic"
    inputs = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(network.module.eval()(inputs), expected, rtol=0, atol=0)


def test_timm_s_weights_that_cannot_be_had_are_one_sentence(hub_cache: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"The weights of timm/resnet18.a1_in1k cannot be loaded \(.*\); download the model.safetensors of "
        r"https://huggingface.co/timm/resnet18.a1_in1k and give timm/resnet18.a1_in1k:PATH",
    ) as caught:
        load_network("timm/resnet18.a1_in1k")
    assert "\n" not in str(caught.value)
    assert not hub_cache.exists() or not list(hub_cache.rglob("*.safetensors"))


def test_a_hub_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own client waits 46 seconds, and logs 20 lines."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it was waited for"))
    with pytest.raises(InputError, match=r"\(the Hugging Face hub cannot be reached: .*\); download the model"):
        load_network("timm/resnet18.a1_in1k")
    assert not caplog.records


def test_weights_for_another_gelu_are_said(hub_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_network("timm/vit_base_patch32_clip_224.openai")
    assert "timm/vit_base_patch32_clip_quickgelu_224.openai has the features" in caplog.messages[0]


def test_truncated_weights_of_timm_are_one_sentence(hub_cache: Path) -> None:
    file = cached(hub_cache, "resnet18.a1_in1k")
    save_file(timm.create_model("resnet18").state_dict(), file)
    file.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(
        InputError, match=r"The weights of timm/resnet18.a1_in1k cannot be loaded \(.*\); download the model"
    ):
        load_network("timm/resnet18.a1_in1k")


def test_a_timm_network_without_published_weights_is_one_sentence() -> None:
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(InputError, match=rf"timm has no weights of {name}; take a name with a tag"):
        load_network(f"timm/{name}")


def test_torchvision_s_interpolation_comes_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    weights = models.get_model_weights("efficientnet_b0").DEFAULT
    torch.save(models.efficientnet_b0().state_dict(), folder / Path(weights.url).name)
    assert weights.transforms().interpolation.value == "bicubic"
    assert load_network("torchvision/efficientnet_b0").preprocessing.interpolation == "bicubic"
