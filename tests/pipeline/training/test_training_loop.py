"""The loop with small networks of the tests' own, against plain torch."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.training.metrics import MetricsLog, truncate_metrics
from tests.pipeline.training.tiny_loop import STEPS, batches, images, loss_of, network, run_loop


def test_loop_is_that_of_plain_torch(tmp_path: Path) -> None:
    trained = run_loop(tmp_path / "run", milestones=(1,), gamma=0.5, momentum=0.8, weight_decay=0.01)
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.8, weight_decay=0.01)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 if epoch < 1 else 0.05
        for batch in batches(epoch, 0):
            optimizer.zero_grad()
            loss_of(plain, batch).backward()
            optimizer.step()
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path, parts: int) -> None:
    whole, in_parts = run_loop(tmp_path / "whole"), run_loop(tmp_path / "parts", parts)
    for ours, theirs in zip(in_parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradient_is_clipped_by_the_norm_over_all_weights(tmp_path: Path) -> None:
    trained = run_loop(tmp_path / "run", 2, clip_norm=0.05, momentum=0, weight_decay=0)
    plain, norms = network(), []
    for epoch in range(3):
        for batch in batches(epoch, 0):
            gradients = torch.autograd.grad(loss_of(plain, batch), list(plain.parameters()))
            norm = sum(each.square().sum().item() for each in gradients) ** 0.5
            assert norm > 0.05
            for weight, gradient in zip(plain.parameters(), gradients, strict=True):
                weight.data -= 0.1 * gradient * 0.05 / norm
        norms.append(norm)
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["gradient_norm"] for line in lines] == pytest.approx(norms, rel=1e-5)  # before clipping


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradient_norm_of_an_epochs_last_step_is_that_of_plain_torch(tmp_path: Path, precision: str) -> None:
    run_loop(tmp_path, 2, epochs=2, precision=precision, learning_rate=1e-9)
    last = list(batches(1, 0))[-1]
    plain = network()
    gradients = torch.autograd.grad(loss_of(plain, last), list(plain.parameters()))
    norm = sum(each.square().sum().item() for each in gradients) ** 0.5
    *_, line = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4 if precision == "float32" else 0.02)


def test_gradient_that_is_not_finite_ends_a_run_though_the_loss_is(tmp_path: Path) -> None:
    def loss_without_gradient(module: torch.nn.Module, batch: Tensor) -> Tensor:
        loss = loss_of(module, batch)
        return (loss * 0).sqrt() if batch.equal(images(0, STEPS - 1)) else loss

    with pytest.raises(RunError, match=r"no longer finite after epoch 0, step 4; .* a lower --learning-rate"):
        run_loop(tmp_path, epochs=1, loss_of=loss_without_gradient)


def test_steps_that_the_gradient_scaler_skips_have_no_gradient_norm(tmp_path: Path) -> None:
    trained = run_loop(
        tmp_path, epochs=1, precision="float16", clip_norm=1.0, loss_of=lambda *of: loss_of(*of) * 1e36
    )  # finite, but not times the initial scale
    for ours, untrained in zip(trained.parameters(), network().parameters(), strict=True):
        torch.testing.assert_close(ours, untrained, rtol=0, atol=0)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert math.isfinite(line["loss"])
    assert "gradient_norm" not in line


def test_seconds_waited_for_batches_are_in_every_line(tmp_path: Path) -> None:
    def slowly(epoch: int, first_step: int) -> Iterator[Tensor]:
        for batch in batches(epoch, first_step):
            if epoch == 1:
                time.sleep(0.1)
            yield batch

    begun = time.monotonic()
    run_loop(tmp_path / "run", batches=slowly)
    elapsed = time.monotonic() - begun
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    waited = {line["epoch"]: line["data_wait_seconds"] for line in lines}
    assert waited[1] > STEPS * 0.1 - 0.01
    assert 0 <= waited[0] + waited[2] < elapsed - waited[1]


def test_metrics_pending_at_a_checkpoint_go_into_the_next_line(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=0)
    first.add({"loss": torch.tensor(1.0)}, 8)
    first.add({"loss": torch.tensor(4.0)}, 8)
    second = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=2, pending=first.pending())
    second.add({"loss": torch.tensor(10.0)}, 8)
    second.write_means(0, 3)
    assert '"loss": 5.0' in (tmp_path / "metrics.jsonl").read_text()


def test_metrics_of_steps_to_be_done_again_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=0)
    for epoch, step in ((0, 5), (0, 9), (1, 5), (1, 9), (2, 5)):
        log.write(epoch, step, {"loss": 1.0})
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    truncate_metrics(tmp_path, 1, 5)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept[:3]
    truncate_metrics(tmp_path, 1, 0)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept[:2]


def test_metrics_that_are_a_link_to_themselves_are_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("metrics.jsonl")
    log = MetricsLog(tmp_path, steps_per_epoch=2, tensorboard=False, done=0)
    with pytest.raises(OSError, match=r"Too many levels of symbolic links: '.*metrics\.jsonl'"):
        log.write(0, 1, {"loss": 1.0})
