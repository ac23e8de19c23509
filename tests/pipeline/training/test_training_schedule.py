"""Learning rates against numbers computed by hand; orders and seeds that depend on their arguments alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from compress_ssl.pipeline.training.schedule import epoch_order, learning_rate, make_optimizer, seed_step
from compress_ssl.pipeline.training.settings import TrainingSettings


def settings(**given: Any) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 130, "learning_rate": 0.01, "schedule": "step", **given})


def test_steps_are_the_papers() -> None:
    for epoch, rate in [(0, 0.01), (89, 0.01), (90, 0.002), (119, 0.002), (120, 0.0004), (129, 0.0004)]:
        for step in (0, 99):
            assert learning_rate(settings(), epoch, step, 100) == pytest.approx(rate)


def test_cosine_is_half_a_wave_from_the_rate_to_zero() -> None:
    chosen = settings(schedule="cosine", epochs=4, learning_rate=2)
    rates = [learning_rate(chosen, epoch, step, 2) for epoch in range(4) for step in range(2)]
    assert rates == pytest.approx([1 + math.cos(math.pi * done / 8) for done in range(8)])
    assert rates[0] == 2
    assert rates[4] == pytest.approx(1)


def test_warm_up_is_a_line_that_ends_at_the_rate() -> None:
    chosen = settings(warmup_epochs=1.5, epochs=4)
    rates = [learning_rate(chosen, epoch, step, 4) for epoch in range(2) for step in range(4)]
    assert rates == pytest.approx([0.01 * part for part in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1)])
    cosine = settings(warmup_epochs=1, epochs=4, schedule="cosine")
    assert learning_rate(cosine, 0, 1, 4) == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi / 16)) / 2)


def test_optimiser_has_the_settings_and_the_trainable_weights() -> None:
    for name, kind in [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]:
        free, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
        optimizer = make_optimizer(settings(optimizer=name, weight_decay=0.03, momentum=0.7), [free, frozen])
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, kind)
        assert [id(weight) for weight in group["params"]] == [id(free)]
        assert (group["lr"], group["weight_decay"], group.get("momentum", 0.7)) == (0.01, 0.03, 0.7)


def test_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    rows = np.array([3, 5, 8, 13, 21, 34, 55])
    orders = {
        (seed, epoch): epoch_order(rows, seed, epoch).tolist() for seed in (0, 1, 2**64 - 1) for epoch in range(9)
    }
    assert all(sorted(order) == rows.tolist() for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) > 24
    assert all(epoch_order(rows, *key).tolist() == order for key, order in reversed(orders.items()))


def test_random_numbers_of_a_step_are_its_own() -> None:
    drawn = {}
    for key in [(seed, epoch, step) for seed in (0, 7) for epoch in range(3) for step in range(5)]:
        seed_step(*key)
        drawn[key] = torch.rand(4)
    assert len({tuple(numbers.tolist()) for numbers in drawn.values()}) == 30
    seed_step(7, 1, 3)
    assert torch.equal(torch.rand(4), drawn[7, 1, 3])
