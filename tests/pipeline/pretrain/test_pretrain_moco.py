"""MoCo v2, against the papers' equations in a loop, and what it keeps from step to step."""

import json
import math
import os
import signal
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import Stopped
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.pipeline.pretrain.methods import MoCoV2, info_nce_loss
from compress_ssl.pipeline.pretrain.run import pretrain
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.pipeline.training.memory_bank import MemoryBank
from compress_ssl.pipeline.training.schedule import epoch_order

if TYPE_CHECKING:
    from collections.abc import Callable


def settings_of(data: Path, name: str = "network", **given: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "arch": "conv4-16", "method": "moco-v2", "epochs": 2, "batch_size": 8, "size": 16, "resize": 16,
        "optimizer": "adamw", "learning_rate": 0.003, "policy": "crop-flip", "device": "cpu", "threads": 1,
        "renderer": "torchvision", "queue_size": 16, "key_momentum": 0.9,
    }  # fmt: skip
    return PretrainSettings(data=data, run=data.parent / name, **{**values, **given})


def unit(vector: Any) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(left: Any, right: Any) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def test_loss_is_equation_1() -> None:
    for count, keys, dim in [(1, 1, 3), (5, 7, 4), (16, 3, 2)]:
        for temperature in [0.07, 0.2, 1.0]:
            generator = np.random.default_rng(0)
            queries, own, queue = (
                [unit(row) for row in generator.normal(size=(rows, dim)).tolist()] for rows in (count, count, keys)
            )
            expected = 0.0
            for query, key in zip(queries, own, strict=True):
                logits = [dot(query, key) / temperature, *(dot(query, other) / temperature for other in queue)]
                expected -= math.log(math.exp(logits[0]) / sum(map(math.exp, logits))) / count
            q, k, bank = (torch.tensor(rows, dtype=torch.float64) for rows in (queries, own, queue))
            assert info_nce_loss(q, k, q @ bank.T, temperature).item() == pytest.approx(expected, rel=1e-10)
            single = info_nce_loss(q.float(), k.float(), (q @ bank.T).float(), temperature)
            assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def method_of(network: nn.Module, feature_dim: int, images: int, **given: Any) -> MoCoV2:
    return MoCoV2(network, feature_dim, images=images, **{"projection_dim": 5, "queue_size": 16, **given})


def test_steps_are_those_of_a_naive_float64_implementation() -> None:
    """Queue first in first out, keys of the moving average, which moves after each step, its own key first."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh())
    method = method_of(network, 6, 100, queue_size=7, temperature=0.3, key_momentum=0.8)
    trained = [*network.parameters(), *method.head.parameters()]
    query = [weight.detach().double().clone() for weight in trained]
    key = [weight.clone() for weight in query]
    queue = deque(method.queue.rows.double().unbind(), maxlen=7)

    def projected(weights: list[Tensor], images: Tensor) -> Tensor:
        hidden = torch.tanh(images.flatten(1) @ weights[0].T + weights[1])
        hidden = (hidden @ weights[2].T + weights[3]).clamp(min=0) @ weights[4].T + weights[5]
        return hidden / hidden.norm(dim=1, keepdim=True)

    optimizer = torch.optim.SGD(trained, lr=0.5)
    for step in range(6):
        images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(step))
        loss, _ = method(network, images, torch.zeros(4))
        first, second = images.double().chunk(2)
        for weight in query:
            weight.requires_grad_()
        queries, keys = projected(query, first), projected(key, second).detach()
        naive = torch.zeros((), dtype=torch.float64)
        for one, own in zip(queries, keys, strict=True):
            logits = torch.stack([one @ own, *(one @ other for other in queue)]) / 0.3
            naive = naive + (logits.exp().sum().log() - logits[0]) / 4
        assert loss.item() == pytest.approx(naive.item(), rel=1e-5)

        optimizer.zero_grad()
        loss.backward()
        gradients = torch.autograd.grad(naive, query)
        for weight, gradient in zip(trained, gradients, strict=True):
            torch.testing.assert_close(weight.grad, gradient.float(), rtol=1e-3, atol=1e-6)
        assert all(weight.grad is None for weight in (*method.key_encoder.parameters(), *method.key_head.parameters()))
        optimizer.step()
        method.after_step(network)
        query = [(weight - 0.5 * gradient).detach() for weight, gradient in zip(query, gradients, strict=True)]
        key = [0.8 * old + 0.2 * new for old, new in zip(key, query, strict=True)]
        queue.extend(keys.unbind())
    for row, expected in zip(sorted(method.queue.rows.tolist()), sorted(row.tolist() for row in queue), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_queue_is_at_most_as_long_as_there_are_images(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Flatten()
    assert len(method_of(network, 12, 100, queue_size=100).queue.rows) == 100
    assert not caplog.records
    assert len(method_of(network, 12, 30).queue.rows) == 16
    assert len(method_of(network, 12, 30, queue_size=31).queue.rows) == 30
    assert "--queue-size 31 is reduced to the size of the dataset, 30 images" in caplog.text
    assert "with --queue-size 7 one in 32" in caplog.text


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_share_of_images_that_meet_an_own_key_is_as_said(share: float) -> None:
    images, batch = np.arange(4000), 20
    queue = MemoryBank(int(share * len(images)), 1, track_images=True)
    met: list[bool] = []
    for epoch in range(5):
        for rows in torch.from_numpy(epoch_order(images, 0, epoch)).split(batch):
            assert queue.images is not None
            own = rows[:, None] == queue.images
            met += own.any(dim=1).tolist() if epoch else []
            queue.enqueue(torch.zeros(batch, 1), rows)
    assert np.mean(met) == pytest.approx(share**2 / 2, abs=0.02)


def test_queue_begins_with_random_unit_vectors() -> None:
    torch.manual_seed(0)
    queue = method_of(nn.Flatten(), 12, 1000, queue_size=1000).queue.rows
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(1000))
    assert (queue.mean(dim=0).abs() < 0.1).all()


def test_loss_falls_and_the_network_alone_is_left(data: Path) -> None:
    settings = settings_of(data, epochs=25)
    pretrain(settings, Silent())
    losses = [json.loads(line)["loss"] for line in (settings.run / "metrics.jsonl").read_text().splitlines()]
    # Among its own key and 16 others, chance is log 17 = 2.83.
    assert losses[-1] < min(2.3, losses[1] - 0.4)
    network = load_network(str(settings.run)).module
    assert network.state_dict().keys() == load_network("random/conv4-16").module.state_dict().keys()


def test_interrupted_in_an_epoch_it_ends_as_if_nothing_had_happened(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (settings_of(data, name, epochs=3) for name in ("whole", "stopped"))
    pretrain(whole, Silent())
    after_step: Callable[[MoCoV2, nn.Module], None] = MoCoV2.after_step
    steps: list[int] = []

    def asked_to_stop(method: MoCoV2, network: nn.Module) -> None:
        after_step(method, network)
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(MoCoV2, "after_step", asked_to_stop)
        with pytest.raises(Stopped):
            pretrain(stopped, Silent())
    assert len(steps) == 6
    pretrain(stopped.model_copy(update={"resume": True}), Silent())
    ours, theirs = (torch.load(each.run / "checkpoint.pt")["modules"] for each in (stopped, whole))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert weights_sha256(load_network(str(stopped.run)).module) == weights_sha256(load_network(str(whole.run)).module)


def test_options_of_moco_are_refused_elsewhere(tmp_path: Path) -> None:
    for name, value in [("queue_size", 65_536), ("key_momentum", 0.999)]:
        for method in ["simclr", "supervised"]:
            fits = {"arch": "conv4-16", "data": tmp_path, "run": tmp_path / "run", name: value}
            with pytest.raises(
                ValidationError, match=f"--{name.replace('_', '-')} does nothing for --method {method}; .* moco-v2"
            ):
                PretrainSettings(method=method, **fits)
            assert getattr(PretrainSettings(method="moco-v2", **fits), name) == value
