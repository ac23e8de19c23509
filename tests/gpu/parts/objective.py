"""CompRess's loss at the paper's size against the published way, in milliseconds, gigabytes and rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, softmax

from compress_ssl import Batch, CompRess1q, CompRess2q
from compress_ssl.pipeline.common.device import prepare_device
from tests.gpu.measure import peak_bytes, seconds_of
from tests.gpu.run import Run

TEMPERATURE = 0.04
GOAL = 0.6  # of the published way's time


def objective(run: Run) -> None:
    """Forward, backward and enqueueing of 2q and 1q; the student is what gives the features, and costs nothing."""
    prepare_device(run.device, run.threads, training=True)
    batch, bank = (8, 512) if run.toy else (256, 128_000)
    for teacher_dim in (64,) if run.toy else (2048, 8192):
        teacher = normalize(torch.randn(batch, teacher_dim, device=run.device), dim=1)
        for kind in ("2q", "1q"):
            with run.attempt(f"{kind}, {teacher_dim} features"):
                compare(run, kind, teacher, bank)
            if run.device == "cuda":
                torch.cuda.empty_cache()


def compare(run: Run, kind: str, teacher: Tensor, bank: int) -> None:
    """Measure an objective against the published way, for a teacher's embeddings (B, D)."""
    dim = teacher.shape[1]
    features = torch.randn(len(teacher), min(512, dim) if kind == "2q" else dim, device=run.device)
    features.requires_grad_()
    ours = make(kind, teacher, features, bank)
    banks = [each.rows.clone() for each in (ours.teacher_bank, ours.student_bank) if each is not None]
    published = Published(banks, features, teacher)
    (loss, gradient), (true_loss, true_gradient) = (
        (value.detach().double(), torch.autograd.grad(value, features)[0].double())
        for value in (ours(nn.Identity(), Batch(features, teacher))[0], published.loss())
    )
    ours.after_step(nn.Identity())
    name = f"{kind}, {dim} features"
    loss_apart = float(abs(loss / true_loss - 1))
    gradient_apart = float((gradient - true_gradient).norm() / true_gradient.norm())
    ok = loss_apart < 0.02 and gradient_apart < 0.05
    run.check(f"{name}: rounding", ok, loss_apart=loss_apart, gradient_apart=gradient_apart)

    def step() -> None:
        ours(nn.Identity(), Batch(features, teacher))[0].backward()
        ours.after_step(nn.Identity())

    found: dict[str, dict[str, Any]] = {}
    for way, function in {"ours": step, "published": published.step}.items():
        seconds, held = seconds_of(function, run.device), peak_bytes(function, run.device)
        found[way] = {"ms": 1e3 * seconds, "gb_above_the_banks": held / 1e9}
        run.measured(name, way=way, **found[way])
    run.goal(f"{name}: share of the published way's time", found["ours"]["ms"] / found["published"]["ms"], most=GOAL)


def make(kind: str, teacher: Tensor, features: Tensor, bank: int) -> CompRess1q | CompRess2q:
    kinds: dict[str, Callable[..., CompRess1q | CompRess2q]] = {"2q": CompRess2q, "1q": CompRess1q}
    made = kinds[kind](
        nn.Identity(), teacher_dim=teacher.shape[1], student_dim=features.shape[1], head="none", bank_size=bank,
        temperature=TEMPERATURE,
    )  # fmt: skip
    return made.to(features.device)


class Published:
    """The loss as in UMBCvision/CompRess, compress.py: banks cloned at every step, softmaxes of all similarities."""

    def __init__(self, banks: list[Tensor], features: Tensor, teacher: Tensor) -> None:
        """Take the banks: the teacher's, and for 2q the student's."""
        self._banks, self._features, self._teacher, self._position = banks, features, teacher, 0

    def loss(self) -> Tensor:
        teacher_queue, student_queue = (self._banks[number].clone().detach() for number in (0, -1))
        teacher = softmax((self._teacher @ teacher_queue.T) / TEMPERATURE, dim=1)
        student = log_softmax((normalize(self._features, dim=1) @ student_queue.T) / TEMPERATURE, dim=1)
        entropy = -(teacher * teacher.clamp(min=torch.finfo(torch.float32).tiny).log()).sum(dim=1).mean()
        return -(teacher * student).sum(dim=1).mean() - entropy

    def step(self) -> None:
        self.loss().backward()
        rows = slice(self._position, self._position + len(self._teacher))
        with torch.no_grad():
            for bank, newest in zip(self._banks, (self._teacher, normalize(self._features, dim=1)), strict=False):
                bank[rows] = newest[: len(bank[rows])]
        self._position = rows.stop % len(self._banks[0])
