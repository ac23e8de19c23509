"""Files with several state dicts: which is taken, what is said of the others, and how one is chosen."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import load_network, weights_sha256

State = dict[str, Tensor]

RAW, AVERAGED = (build_backbone("conv4-16", seed).module for seed in (1, 2))
SHA256 = {"raw": weights_sha256(RAW), "averaged": weights_sha256(AVERAGED)}
ONE, OTHER = RAW.state_dict(), AVERAGED.state_dict()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def of_torchvision() -> State:
    """As the training script of torchvision's references writes ``model_ema``."""
    averaged = AveragedModel(AVERAGED)
    assert "n_averaged" in averaged.state_dict()
    return averaged.state_dict()


DINO = {"student": under("module.backbone.", ONE), "teacher": under("backbone.", OTHER) | {"head.x": torch.ones(2)}}
DINO_LOSS = {"dino_loss": {"center": torch.zeros(1, 4)}}
MOCO = {"state_dict": under("module.encoder_q.", ONE) | under("module.encoder_k.", OTHER)}


@pytest.mark.parametrize(
    ("content", "part", "taken"),
    [
        ({"state_dict": ONE, "state_dict_ema": OTHER, "arch": "conv4"}, "", "averaged"),  # timm
        ({"state_dict": ONE, "state_dict_ema": OTHER}, "#state_dict", "raw"),
        ({"model": ONE, "model_ema": of_torchvision()}, "", "averaged"),
        ({"model": ONE, "model_ema": of_torchvision()}, "#model", "raw"),
        ({"state_dict": OTHER, "ema_state_dict": under("module.", ONE) | {"steps": torch.ones(1)}}, "", "averaged"),
        ({"state_dict": OTHER, "ema_state_dict": under("module.", ONE)}, "#ema_state_dict", "raw"),  # MMEngine
        (DINO | DINO_LOSS, "", "averaged"),
        (DINO | DINO_LOSS, "#student", "raw"),
        (MOCO, "", "raw"),
        (MOCO, "#encoder_k", "averaged"),
        ({"nested": {"deep": ONE}}, "#nested.deep", "raw"),
        ({"classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", ONE)}}}}, "", "raw"),
    ],
)
def test_averaged_weights_are_taken_and_any_can_be_chosen(content: Any, part: str, taken: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert load_network(f"conv4-16:{tmp_path / 'a.pth'}{part}").identity()["weights_sha256"] == SHA256[taken]


def test_the_others_are_said_and_a_choice_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.pth"
    torch.save({"state_dict": ONE, "state_dict_ema": OTHER, **DINO_LOSS}, file)
    with caplog.at_level(logging.INFO):
        averaged, raw = load_network(f"conv4-16:{file}"), load_network(f"conv4-16:{file}#state_dict")
    assert "; taken: #state_dict_ema, not #state_dict (choose as in FILE#state_dict); left out" in caplog.messages[0]
    assert "; taken: #state_dict, not #state_dict_ema (choose as in FILE#state_dict_ema); left" in caplog.messages[1]
    assert (averaged.name, raw.name) == ("a", "a#state_dict")
    assert averaged.identity()["checkpoint"]["part"] == "state_dict_ema"
    # As in stores of earlier releases, which took these.
    assert raw.identity()["checkpoint"].keys() == {"file_sha256", "layout"}


def test_a_part_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    for content, part, sentence in [
        (DINO, "#encoder", r"a.pth' has no part 'encoder'; it has #student, #teacher\.$"),
        (ONE, "#ema", r"a.pth' has no part 'ema'; it has nothing to choose\.$"),
        ({"weights": ONE}, "", r"a.pth' holds weights only under weights; choose with FILE#weights\.$"),
    ]:
        torch.save(content, file)
        with pytest.raises(InputError, match=sentence):
            load_network(f"conv4-16:{file}{part}")


def test_a_dict_in_itself_or_in_many_places_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": ONE, "again": {f"{number}": ONE for number in range(3)}}
    content["itself"] = content
    torch.save(content, tmp_path / "a.pth")
    assert load_network(f"conv4-16:{tmp_path / 'a.pth'}").identity()["weights_sha256"] == SHA256["raw"]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("convnext.embeddings.patch_embeddings.weight", "Hugging Face transformers, .* give the same network as timm/"),
        ("vision_model.embeddings.class_embedding", "Hugging Face transformers"),
        ("blocks.0._flat_param", "FSDP in shards; save the full state dict"),
        ("backbone.bottom_up.res2.0.conv1.weight", "Detectron2"),
    ],
)
def test_names_that_are_not_read_are_said_to_be_whose(key: str, sentence: str, tmp_path: Path) -> None:
    torch.save({"model": {key: torch.ones(2, 2)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a.pth' was written by {sentence}") as caught:
        load_network(f"conv4-16:{tmp_path / 'a.pth'}")
    assert "\n" not in str(caught.value)


def test_an_archive_of_torchscript_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"a.pt' is a TorchScript archive, .* save the state dict of torch.jit.load"):
        load_network(f"conv4-16:{tmp_path / 'a.pt'}")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    torch.save(ONE | {"more": torch.zeros(2_000_000)}, tmp_path / "a.pth")
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
            for record in archive.infolist():
                packed.writestr(record.filename, archive.read(record), compression)
        with pytest.raises(InputError, match=r"b.pth' would unpack to 0.0 GB, but torch.save compresses nothing"):
            load_network(f"conv4-16:{tmp_path / 'b.pth'}")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_weights_that_are_no_real_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(ONE | {"0.weight": ONE["0.weight"].to(dtype)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"does not fit conv4-16: 0.weight is {dtype} instead of torch.float32"):
        load_network(f"conv4-16:{tmp_path / 'a.pth'}")
