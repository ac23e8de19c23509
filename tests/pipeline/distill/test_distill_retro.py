"""Retro: the loss against float64 loops over the head's layers, and what a run does with a teacher's head."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zarr
from pydantic import ValidationError
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.objectives.retro import Retro
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from tests.pipeline.distill.float64 import check_loss, unit
from tests.pipeline.distill.kinds import write_head

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]


def test_loss_and_gradient_are_the_textbooks_and_the_head_stays_as_it_is() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(20)
    norm(torch.randn(50, 20) * 2 + 1)  # running statistics
    head = nn.Sequential(nn.Linear(24, 20), norm, nn.ReLU(), nn.Linear(20, 8))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    objective = Retro(nn.Identity(), teacher_dim=24, student_dim=16, projection_head=head).train()
    teacher = 3 * torch.randn(6, 24).relu()
    first, second = ((head[at].weight.double(), head[at].bias.double()) for at in (0, 3))

    def projected_by_head(row: Tensor) -> Tensor:
        hidden = first[0] @ row + first[1]
        scale = (norm.running_var.double() + norm.eps).sqrt()
        hidden = (hidden - norm.running_mean.double()) / scale * norm.weight.double() + norm.bias.double()
        return unit(second[0] @ hidden.clamp(min=0) + second[1])

    def textbook(projected: Tensor) -> Tensor:
        pairs = zip(projected, teacher.double(), strict=True)
        return torch.stack([(projected_by_head(a) - projected_by_head(b)).square().sum() for a, b in pairs]).mean()

    check_loss(objective, Batch(torch.randn(6, 16), teacher), textbook)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_stage_passes_the_stores_embeddings_through_the_head_as_they_are(
    trained: Trained, store: Path, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Linear) and not given[0].requires_grad:
            seen.append(given[0])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    trained(objective="retro", epochs=1)
    hook.remove()
    stored = torch.from_numpy(zarr.open_group(store, mode="r")["train"]["embeddings"][1].astype("float32"))
    teacher = torch.cat([each for each in seen if len(each) == 8])
    assert len(teacher) == 24
    assert (teacher[:, None] == stored).all(dim=2).any(dim=1).all()
    head = torch.load(tmp_path / "head-32.pt")["state_dict"]
    saved = torch.load(tmp_path / "student" / "checkpoint.pt")["modules"]
    assert torch.equal(saved["objective.projection_head.2.weight"], head["module.encoder_q.fc.2.weight"])


def test_file_of_the_head_is_recorded_and_another_refused_on_resume(student: Students, tmp_path: Path) -> None:
    settings = student(objective="retro", epochs=1)
    distill(settings, Silent())
    record = json.loads((settings.run / "settings.json").read_text())["inputs"]["teacher_head"]
    assert [each["part"] for each in record] == ["encoder_q.fc"]
    moved = Path(settings.teacher_head[0]).rename(tmp_path / "moved.pt")
    resumed = settings.model_copy(update={"resume": True, "teacher_head": (str(moved),)})
    distill(resumed, Silent())
    write_head(moved, 32, out=16)
    with pytest.raises(InputError, match=r"was started with inputs\.teacher_head"):
        distill(resumed, Silent())


def test_heads_that_do_not_go_with_the_stores_are_refused(
    student: Students, trained: Trained, embedded: Callable[..., Path], tmp_path: Path
) -> None:
    head = str(write_head(tmp_path / "head.pt", 16))
    with pytest.raises(ValidationError, match="There are 0 --teacher-head and 1 stores; give the checkpoint"):
        student(objective="retro", teacher_head=())
    with pytest.raises(ValidationError, match="--teacher-head does nothing for reg; leave it out, or use retro"):
        student(objective="reg", teacher_head=(head,))
    with pytest.raises(
        InputError, match=r"does not take the teacher's 32 features \(.*\); give the head of this teacher"
    ):
        trained(objective="retro", teacher_head=(head,))
    with pytest.raises(InputError, match="holds normalised embeddings, on which no projection head was trained"):
        trained(objective="retro", store=embedded(normalise=True), teacher_head=(head,))
    assert not (tmp_path / "student").exists()
