"""CompRess's loss at the paper's size against the published way, in milliseconds, gigabytes and rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from compress_ssl import Batch, CompRess1q, CompRess2q
from compress_ssl.pipeline.common.device import prepare_device
from tests.gpu.measure import peak_bytes, seconds_of
from tests.gpu.run import Run

TEMPERATURE = 0.04
GOAL = 0.6  # of the published way's time
WAYS: dict[str, dict[str, Any]] = {
    "ours": {}, **{f"banks in {each}": {"bank_precision": each} for each in ("float32", "bfloat16", "float16")},
}  # fmt: skip
LOSS_APART, GRADIENT_APART = 0.02, 0.05  # relative, of any way


def objective(run: Run) -> None:
    """Forward, backward and enqueueing of 2q and 1q; the student is what gives the features, and costs nothing."""
    prepare_device(run.device, run.threads, training=True)
    batch = 8 if run.toy else 256
    for teacher_dim in (64,) if run.toy else (2048, 8192):
        teacher = normalize(torch.randn(batch, teacher_dim, device=run.device), dim=1)
        for kind, student_dim in {"2q": min(512, teacher_dim), "1q": teacher_dim}.items():
            features = torch.randn(batch, student_dim, device=run.device).requires_grad_()
            with run.attempt(f"{kind}, {teacher_dim} features"):
                compare(run, kind, features, teacher)
            if run.device == "cuda":
                torch.cuda.empty_cache()


def compare(run: Run, kind: str, features: Tensor, teacher: Tensor) -> None:
    """Measure the objective in all its ways, and the published one in float32 and TF32; check the rounding."""
    name = f"{kind}, {teacher.shape[1]} features"
    as_the_stage = torch.get_float32_matmul_precision()
    made = make(run, kind, features, teacher, bank_precision="float32")
    published = Published([bank.rows for bank in (made.teacher_bank, made.student_bank) if bank], features, teacher)
    torch.set_float32_matmul_precision("highest")
    true_loss, true_gradient = with_gradient(published.loss(), features)
    seconds: dict[str, float] = {}

    def measure(way: str, function: Callable[[], None]) -> None:
        seconds[way], held = seconds_of(function, run.device), peak_bytes(function, run.device)
        run.measured(name, way=way, ms=1e3 * seconds[way], gb_above_the_banks=held / 1e9)

    measure("published", published.step)
    torch.set_float32_matmul_precision("high")
    measure("published, TF32", published.step)
    torch.set_float32_matmul_precision(as_the_stage)
    for way, given in WAYS.items():
        ours = make(run, kind, features, teacher, **given)

        def step(ours: CompRess1q | CompRess2q = ours) -> Tensor:
            loss, _ = ours(nn.Identity(), Batch(features, teacher))
            loss.backward()
            ours.after_step(nn.Identity())
            return loss

        loss, gradient = with_gradient(ours(nn.Identity(), Batch(features, teacher))[0], features)
        ours.after_step(nn.Identity())
        apart = float(abs(loss / true_loss - 1))
        gradient_apart = float((gradient - true_gradient).norm() / true_gradient.norm())
        ok = apart < LOSS_APART and gradient_apart < GRADIENT_APART
        run.check(f"{name}, {way}: rounding", ok, loss_apart=apart, gradient_apart=gradient_apart)
        measure(way, step)
    run.goal(f"{name}: share of the published way's time", seconds["ours"] / seconds["published"], most=GOAL)


def make(run: Run, kind: str, features: Tensor, teacher: Tensor, **given: Any) -> CompRess1q | CompRess2q:
    """Return an objective whose banks begin with the same noise each time."""
    torch.manual_seed(0)
    kinds: dict[str, type[CompRess1q | CompRess2q]] = {"2q": CompRess2q, "1q": CompRess1q}
    dims = {"teacher_dim": teacher.shape[1], "student_dim": features.shape[1]}
    bank = {"bank_size": 512 if run.toy else 128_000, "temperature": TEMPERATURE, "head": "none"}
    return kinds[kind](nn.Identity(), **dims, **bank, **given).to(run.device)


def with_gradient(loss: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, features)
    return loss.detach().double(), gradient.double()


class Published:
    """A step as in UMBCvision/CompRess, nn/compress_loss.py: banks cloned, softmaxes of all similarities, kl_div."""

    def __init__(self, banks: list[Tensor], features: Tensor, teacher: Tensor) -> None:
        """Take the banks: the teacher's, and for 2q the student's."""
        self._banks, self._features, self._teacher, self._position = banks, features, teacher, 0

    def loss(self) -> Tensor:
        queues = [bank.clone() for bank in self._banks]
        student = (queues[-1] @ normalize(self._features, dim=1).T).T / TEMPERATURE
        teacher = (queues[0] @ self._teacher.T).T / TEMPERATURE
        student, teacher = student.contiguous(), teacher.contiguous()
        return kl_div(log_softmax(student, dim=1), softmax(teacher, dim=1), reduction="batchmean")

    def step(self) -> None:
        self.loss().backward()
        size = len(self._banks[0])
        places = (torch.arange(len(self._teacher), device=self._teacher.device) + self._position) % size
        with torch.no_grad():
            for bank, newest in zip(self._banks, (self._teacher, normalize(self._features, dim=1)), strict=False):
                bank.index_copy_(0, places, newest)
        self._position = (self._position + len(self._teacher)) % size
