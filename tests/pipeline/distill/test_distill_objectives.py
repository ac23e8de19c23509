"""CompRess and the whole stage, against a float64 loop written from the paper's pseudo-code.

The loop reads the store with zarr, crops with torchvision, and has its own forward pass, SGD and queues; of ours it
takes the first weights and the first noise of the banks. B batch, K rows of a bank, D and F features of teacher and
student.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as F

from compress_ssl.pipeline.distill.objectives.objective import Batch
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.networks.architectures import build_backbone

Students = Callable[..., DistillSettings]


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def batch_norm(weights: dict[str, Tensor], norm: str, x: Tensor) -> Tensor:
    """Of (B, channels, ...), in training mode."""
    others = (0, *range(2, x.ndim))
    mean, variance = x.mean(dim=others), x.var(dim=others, unbiased=False)
    count = x.numel() / x.shape[1]
    with torch.no_grad():
        weights[f"{norm}.running_mean"].mul_(0.9).add_(0.1 * mean)
        weights[f"{norm}.running_var"].mul_(0.9).add_(0.1 * variance * count / (count - 1))
    spread = (-1, *(1 for _ in others[1:]))
    x = (x - mean.view(spread)) / (variance.view(spread) + 1e-5).sqrt()
    return x * weights[f"{norm}.weight"].view(spread) + weights[f"{norm}.bias"].view(spread)


def conv4(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The four-layer network with batch norm in training mode; moves the running statistics."""
    x = images
    for first in (0, 4, 8, 12):
        x = functional.conv2d(x, weights[f"{first}.weight"], padding=1)
        x = batch_norm(weights, f"{first + 1}", x)
        x = functional.max_pool2d(x.clamp(min=0), 2, ceil_mode=True)
    return x.mean(dim=(2, 3))


def head(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Nothing, one linear layer, or SimReg's four: by the weights that there are."""
    if not weights:
        return x
    if "weight" in weights:
        return x @ weights["weight"].T + weights["bias"]
    for layer in (0, 3, 4, 7):
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        if layer in (0, 4):
            x = batch_norm(weights, f"{layer + 1}", x).clamp(min=0)
    return x


@dataclass
class Loop:
    """The published algorithm, in float64."""

    settings: DistillSettings
    student: dict[str, Tensor]
    projection: dict[str, Tensor]
    """Of the head; empty for none."""
    teacher_bank: Tensor
    student_bank: Tensor
    key: dict[str, Tensor] = field(default_factory=dict)
    key_projection: dict[str, Tensor] = field(default_factory=dict)
    velocity: dict[int, Tensor] = field(default_factory=dict)
    place: int = 0

    def __post_init__(self) -> None:
        self.key = {name: value.clone() for name, value in self.student.items()}
        self.key_projection = {name: value.clone() for name, value in self.projection.items()}

    def trained(self) -> list[Tensor]:
        both = (*self.student.items(), *self.projection.items())
        return [value for name, value in both if "running" not in name]

    def step(self, images: Tensor, teacher: Tensor, rate: float) -> float:
        """One step on (B, 3, S, S) and the teacher's (B, D); gives the loss."""
        weights = self.trained()
        for weight in weights:
            weight.requires_grad_()
        queries = unit(head(self.projection, conv4(self.student, images)))
        is_1q = self.settings.objective == "compress-1q"
        bank = self.teacher_bank if is_1q else self.student_bank
        if not is_1q:
            with torch.no_grad():
                keys = unit(head(self.key_projection, conv4(self.key, images)))
        loss = torch.zeros((), dtype=torch.float64)
        for query, answer in zip(queries, teacher, strict=True):
            p = (self.teacher_bank @ answer / self.settings.temperature).exp()
            q = (bank @ query / self.settings.temperature).exp()
            p, q = p / p.sum(), q / q.sum()
            loss = loss + (p * (p / q).log()).sum() / len(images)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                push = gradient + self.settings.weight_decay * weight
                self.velocity[number] = self.settings.momentum * self.velocity.get(number, torch.zeros(())) + push
                weight.requires_grad_(False).sub_(rate * self.velocity[number])
            for number, answer in enumerate(teacher):
                self.teacher_bank[self.place] = answer
                if not is_1q:
                    self.student_bank[self.place] = keys[number]
                self.place = (self.place + 1) % len(self.teacher_bank)
            old = self.settings.key_momentum
            for average, weights in ((self.key, self.student), (self.key_projection, self.projection)):
                for name, weight in weights.items():
                    if "running" not in name:
                        average[name] = old * average[name] + (1 - old) * weight
        return loss.item()


def doubles(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.double().clone() for name, value in module.state_dict().items() if value.is_floating_point()}


def begin(settings: DistillSettings, teacher_dim: int) -> tuple[torch.nn.Module, Any, Loop]:
    """Our student and objective, and the loop with copies of their first weights."""
    module, feature_dim = build_backbone("conv4-16", settings.seed)
    torch.manual_seed(settings.seed)
    objective = build_objective(
        settings, settings.objective_options, module, student_dim=feature_dim, teacher_dim=teacher_dim, images=100
    )
    loop = Loop(
        settings,
        doubles(module),
        doubles(objective.projection),
        objective.teacher_bank.rows.double(),
        torch.empty(0) if objective.student_bank is None else objective.student_bank.rows.double(),
    )
    return module, objective, loop


def assert_close_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].double(), value, rtol=tolerance, atol=tolerance, msg=f"{name} differs")


@pytest.mark.parametrize(
    ("objective_name", "head_name", "teacher_dim"),
    [
        ("compress-1q", None, 24),
        ("compress-1q", "none", 16),
        ("compress-1q", "mlp", 24),
        ("compress-2q", None, 24),
        ("compress-2q", "linear", 24),
        ("compress-2q", "mlp", 24),
    ],
)
def test_steps_are_those_of_the_pseudo_code(
    student: Students, objective_name: str, head_name: str | None, teacher_dim: int
) -> None:
    for bank_size in (30, 36, 7):
        settings = student(
            objective=objective_name,
            head=head_name,
            bank_size=bank_size,
            batch_size=12,
            **({"key_momentum": 0.7} if objective_name == "compress-2q" else {}),
            weight_decay=0.01,
            temperature=0.1,
        )
        check_steps(settings, teacher_dim)


def check_steps(settings: DistillSettings, teacher_dim: int) -> None:
    # Batch norm of few rows magnifies the rounding of float32, at every step: fewer of them with SimReg's head.
    steps, tolerance = (3, 1e-4) if settings.head == "mlp" else (7, 1e-5)
    batch_size, bank_size = settings.batch_size, settings.bank_size
    module, objective, loop = begin(settings, teacher_dim)
    assert float(loop.teacher_bank.abs().max()) <= 1 / math.sqrt(teacher_dim / 3)
    module.train()
    objective.train()
    parameters = [each for each in (*module.parameters(), *objective.parameters()) if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=settings.momentum, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(batch_size, 3, 16, 16, generator=generator)
        teacher = unit(torch.randn(batch_size, teacher_dim, generator=generator))
        loss, diagnostics = objective(module, Batch(images, teacher, torch.arange(batch_size)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(module)
        expected = loop.step(images.double(), teacher.double(), 0.01)
        assert loss.item() == pytest.approx(expected, rel=tolerance)
        assert 1 <= float(diagnostics["teacher_perplexity"]) <= bank_size
    assert_close_weights(module.state_dict(), loop.student, tolerance)
    assert_close_weights(objective.projection.state_dict(), loop.projection, tolerance)
    torch.testing.assert_close(objective.teacher_bank.rows.double(), loop.teacher_bank, rtol=0, atol=1e-7)
    if objective.key_encoder is not None:
        assert_close_weights(objective.key_encoder.state_dict(), loop.key, tolerance)
        assert_close_weights(objective.key_projection.state_dict(), loop.key_projection, tolerance)
        torch.testing.assert_close(objective.student_bank.rows.double(), loop.student_bank, rtol=0, atol=tolerance)


def rendered(data: Path, group: zarr.Group, view: int, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
    """What the student sees of some rows, and the teacher's embeddings, by torchvision and zarr alone."""
    columns = list(group["augmentation"].attrs["columns"])
    images = []
    for row in rows:
        value = dict(zip(columns, group["augmentation"][view, row].tolist(), strict=True))
        box = [int(value[name]) for name in ("crop_top", "crop_left", "crop_height", "crop_width")]
        image = Image.open(data / "train" / str(group["sample_path"][row])).convert("RGB")
        seen = F.resized_crop(image, *box, [16, 16], antialias=True)
        images.append(F.to_tensor(F.hflip(seen) if value["flip"] else seen))
    pixels = F.normalize(torch.stack(images), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    teacher = torch.from_numpy(group["embeddings"][view][list(rows)].astype(np.float64))
    return pixels.double(), unit(teacher)


@pytest.mark.parametrize(
    ("objective_name", "head_name"), [("compress-1q", None), ("compress-2q", None), ("compress-2q", "linear")]
)
def test_stage_is_the_loop_on_the_images_and_embeddings_of_the_store(
    student: Students, trained: Any, metrics: Any, store: Path, data: Path, objective_name: str, head_name: str | None
) -> None:
    chosen = {
        "objective": objective_name,
        "head": head_name,
        "renderer": "torchvision",
        "milestones": (1, 2),
        "gamma": 0.5,
        "seed": 3,
    }
    settings = student("expected", **chosen)
    weights = trained("student", **chosen)
    group = zarr.open_group(store, mode="r")["train"]
    _, _, loop = begin(settings, 32)
    losses = []
    for epoch in range(settings.epochs):
        shuffled = np.random.Generator(np.random.Philox(key=np.array([3, epoch], np.uint64))).permutation(29)
        for rows in shuffled[:24].reshape(3, 8):
            images, teacher = rendered(data, group, 1 + epoch % 2, rows.tolist())
            losses.append(loop.step(images, teacher, 0.05 * 0.5**epoch))
    written = metrics(settings.run.with_name("student"))
    assert [line["loss"] for line in written] == pytest.approx(np.reshape(losses, (3, 3)).mean(axis=1), rel=1e-5)
    assert [line["learning_rate"] for line in written] == pytest.approx([0.05, 0.025, 0.0125])
    assert_close_weights(weights, loop.student, 1e-4)
