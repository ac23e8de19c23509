"""CompRess's loss at the paper's size against the published way, in milliseconds, gigabytes and rounding."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl import Batch, CompRess1q, CompRess2q
from compress_ssl.pipeline.common.device import prepare_device
from tests.benchmarks.objective import TEMPERATURE, published
from tests.gpu.measure import peak_bytes, seconds_of
from tests.gpu.run import Run

GOAL = 0.6  # of the published way's time
LOSS_APART, GRADIENT_APART = 0.02, 0.05  # relative, with banks of any precision


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
    """Measure the objective with banks of every precision, and the published way; check loss and gradient."""
    name, batch = f"{kind}, {teacher.shape[1]} features", Batch(features, teacher)
    as_the_stage = torch.get_float32_matmul_precision()
    seconds: dict[str, float] = {}

    def measure(way: str, step: Callable[[], object]) -> None:
        seconds[way], held = seconds_of(step, run.device), peak_bytes(step, run.device)
        run.measured(name, way=way, ms=1e3 * seconds[way], gb_above_the_banks=held / 1e9)

    first = make(run, kind, batch, "float32")
    banks = [bank for bank in (first.teacher_bank, first.student_bank) if bank is not None]

    def step_as_published() -> Tensor:
        queries = normalize(features, dim=1)
        loss = published(teacher, queries, banks[0].rows, banks[-1].rows)
        for bank, newest in zip(banks, (teacher, queries.detach()), strict=False):
            bank.enqueue(newest)
        return loss

    torch.set_float32_matmul_precision("highest")
    true_loss, true_gradient = with_gradient(step_as_published, features)
    measure("published", step_as_published)
    torch.set_float32_matmul_precision("high")
    measure("published, TF32", step_as_published)
    torch.set_float32_matmul_precision(as_the_stage)
    for precision in ("float32", "bfloat16", "float16"):
        made = make(run, kind, batch, precision)

        def step(made: CompRess1q | CompRess2q = made) -> Tensor:
            loss, _ = made(nn.Identity(), batch)
            loss.backward()
            made.after_step(nn.Identity())
            return loss

        loss, gradient = with_gradient(step, features)
        apart = float(abs(loss / true_loss - 1))
        gradient_apart = float((gradient - true_gradient).norm() / true_gradient.norm())
        ok = apart < LOSS_APART and gradient_apart < GRADIENT_APART
        run.check(f"{name}, banks in {precision}: rounding", ok, loss_apart=apart, gradient_apart=gradient_apart)
        measure(f"banks in {precision}", step)
    share = seconds["banks in float32"] / seconds["published"]
    run.goal(f"{name}: share of the published way's time", share, most=GOAL)


def make(run: Run, kind: str, batch: Batch, bank_precision: str) -> CompRess1q | CompRess2q:
    """Return an objective whose banks begin with the same noise each time."""
    torch.manual_seed(0)
    kinds: dict[str, type[CompRess1q | CompRess2q]] = {"2q": CompRess2q, "1q": CompRess1q}
    given = {"teacher_dim": batch.teacher_embeddings.shape[1], "student_dim": batch.images.shape[1], "head": "none",
             "bank_size": 512 if run.toy else 128_000, "bank_precision": bank_precision}  # fmt: skip
    return kinds[kind](nn.Identity(), temperature=TEMPERATURE, **given).to(run.device)


def with_gradient(step: Callable[[], Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of a step, and its gradient with respect to the features."""
    features.grad = None
    loss = step().detach().double()
    assert features.grad is not None
    return loss, features.grad.double()
