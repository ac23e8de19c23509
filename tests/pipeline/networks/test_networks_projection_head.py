"""Projection heads of teachers, read from the keys of the projects that publish them, with their activations."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.checkpoints.projection_head import load_projection_head


def mlp(*layers: nn.Module) -> nn.Sequential:
    """A head in evaluation mode, whose batch norms have seen data."""
    head = nn.Sequential(*layers)
    head(torch.randn(40, 12))
    return head.eval()


def named(head: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in head.state_dict().items()}


MOCO = mlp(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 8))
MOCO_V3 = mlp(nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8, bias=False),
              nn.BatchNorm1d(8, affine=False))  # fmt: skip
SWAV = mlp(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
DINO = mlp(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))
BACKBONE = {"conv1.weight": torch.randn(4, 3, 3, 3)}
FILES = {
    "moco-v2": (MOCO, "", "encoder_q.fc", {"state_dict": named(MOCO, "module.encoder_q.fc")
                | named(SWAV, "module.encoder_k.fc") | {"module.queue": torch.randn(8, 5)}}),
    "moco-v2, another part": (SWAV, "#encoder_k.fc", "encoder_k.fc", {"state_dict": named(MOCO, "module.encoder_q.fc")
                              | named(SWAV, "module.encoder_k.fc")}),
    "moco-v3": (MOCO_V3, "", "base_encoder.head", {"state_dict": named(MOCO_V3, "module.base_encoder.head")
                | named(SWAV, "module.predictor")}),
    "swav": (SWAV, "", "projection_head", named(SWAV, "module.projection_head")
             | {"module.prototypes.weight": torch.randn(30, 8)}),
    "dino": (DINO, "", "head.mlp", {"student": named(MOCO, "module.head.mlp"), "teacher": named(DINO, "head.mlp")
             | {"head.last_layer.weight_g": torch.ones(9, 1), "head.last_layer.weight_v": torch.randn(9, 8)}}),
    "dino, named": (DINO, "#head.mlp", "head.mlp", {"teacher": named(DINO, "head.mlp")
                    | {"head.last_layer.weight_g": torch.ones(9, 1)}}),
    "barlow-twins": (MOCO_V3, "", "projector", {"model": named(MOCO_V3, "module.projector")}),
    "a state dict of the head": (SWAV, "#head", "head", {"head": SWAV.state_dict(), "epoch": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_head_of_a_published_layout_computes_what_the_published_module_does(name: str, tmp_path: Path) -> None:
    head, part, recorded, content = FILES[name]
    torch.save(content, tmp_path / "teacher.pth")
    found = load_projection_head(f"{tmp_path / 'teacher.pth'}{part}")
    embeddings = torch.randn(5, 12)
    torch.testing.assert_close(found.layers(embeddings), head(embeddings), rtol=0, atol=0)
    assert found.identity["part"] == recorded


def test_names_in_any_order_are_layers_by_their_numbers(tmp_path: Path) -> None:
    deep = mlp(*(nn.Linear(12, 12) for _ in range(11)))
    save_file(named(deep, "projector"), tmp_path / "teacher.safetensors")  # sorted as text: 10 before 2
    embeddings = torch.randn(5, 12)
    found = load_projection_head(str(tmp_path / "teacher.safetensors"))
    torch.testing.assert_close(found.layers(embeddings), deep(embeddings), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "part", "expected"),
    [
        (BACKBONE, "", "has no projection head .*give FILE#PREFIX"),
        (named(MOCO, "encoder_q.fc"), "#encoder_k.fc", "has no part 'encoder_k.fc'"),
        ({"projector.0.weight": torch.randn(8, 12, 1, 1)}, "", "'projector' in .* is no sequence of linear layers"),
        ({"projector.0.weight_g": torch.ones(8)}, "", r"is no sequence .*\(a layer has weight_g\)"),
        ({"projector.0.weight": torch.randn(8, 12), "projector.0.bias": torch.randn(7)}, "", "is no sequence"),
        ({"projector.0.weight": torch.full((8, 12), torch.nan)}, "", r"'projector.0.weight' in .* are not finite"),
    ],
)
def test_what_is_no_head_is_refused_with_a_sentence(
    content: dict[str, Tensor], part: str, expected: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "teacher.pth")
    with pytest.raises(InputError, match=expected):
        load_projection_head(f"{tmp_path / 'teacher.pth'}{part}")
