"""Heads: what they compute, that they are trained, and that nothing of them is left at export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.heads import HEADS, build_head

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


def test_heads_have_the_layers_and_widths_of_their_source() -> None:
    assert [build_head(name, 512, 2048)[1] for name in ("none", *HEADS)] == [512, *[2048] * 4]
    linear, mlp = (build_head(name, 2048, 8192)[0] for name in ("linear", "mlp"))
    assert isinstance(linear, nn.Linear)
    assert (linear.in_features, linear.out_features) == (2048, 8192)
    layers = [layer for layer in mlp.modules() if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [2048, 4096, 2048, 4096]
    assert [layer.out_features for layer in layers] == [4096, 2048, 4096, 8192]
    shapes = [tuple(weight.shape) for weight in build_head("mlp-2", 2048, 8192)[0].parameters()]
    assert shapes == [(2048, 2048), (2048,), (8192, 2048), (8192,)]
    first, activation, second = build_head("mlp-gelu", 768, 1024)[0].children()
    assert isinstance(activation, nn.GELU)
    assert (first.weight.shape, second.weight.shape) == ((3072, 768), (1024, 3072))
    for layer in (first, second):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.01)
        assert not layer.bias.any()


def test_head_none_gives_the_feature_itself() -> None:
    features = torch.randn(3, 16)
    assert torch.equal(build_head("none", 16, 32)[0](features), features)


@pytest.mark.parametrize("export", ["query", "key"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_heads_are_trained_and_kept_in_the_checkpoint_and_the_network_is_the_backbone_alone(
    trained: Trained, tmp_path: Path, head: str, export: str
) -> None:
    weights = trained(head=head, export=export, keep_every=1, epochs=2)
    assert weights.keys() == build_backbone("conv4-16").module.state_dict().keys()
    first, second = (
        torch.load(tmp_path / "student" / f"epoch-{epoch:04d}" / "checkpoint.pt")["modules"] for epoch in (1, 2)
    )
    own = [name for name in first if name.startswith(("objective.projection", "objective.key_projection"))]
    assert len(own) == {"linear": 4, "mlp": 36}[head]
    assert all(not torch.equal(first[name], second[name]) for name in own)
    assert first["objective.student_bank.rows"].shape == (20, 32)


def test_head_changes_the_student_and_the_objectives_own_is_the_default(trained: Trained, assert_same: Any) -> None:
    for objective, own, other in (("compress-1q", "linear", "mlp"), ("compress-2q", "none", "linear")):
        unnamed = trained(f"{objective}-unnamed", objective=objective)
        assert_same(trained(f"{objective}-own", objective=objective, head=own), unnamed)
        changed = trained(f"{objective}-other", objective=objective, head=other)
        assert not torch.equal(changed["0.weight"], unnamed["0.weight"])


def test_no_head_where_dimensions_differ_is_refused_for_one_bank_before_anything_is_written(
    trained: Trained, tmp_path: Path
) -> None:
    expected = (
        r"Head 'none' keeps the student's 16 features, which CompRess1q .* the teacher's 32; use head linear or mlp"
    )
    with pytest.raises(InputError, match=expected):
        trained(objective="compress-1q", head="none")
    assert not (tmp_path / "student").exists()
    assert trained(student="conv4-32", objective="compress-1q", head="none").keys()
