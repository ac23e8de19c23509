"""Learning rates against numbers computed by hand; orders and seeds that depend on their arguments alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from compress_ssl.pipeline.training.schedule import (
    epoch_order,
    images_per_epoch,
    learning_rate,
    make_optimizer,
    seed_step,
)
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
    chosen = settings(schedule="cosine-per-epoch", epochs=4, learning_rate=2)
    by_epoch = [learning_rate(chosen, epoch, step, 2) for epoch in range(4) for step in range(2)]
    assert by_epoch == pytest.approx([rate for rate in rates[::2] for _ in range(2)])


def test_warm_up_is_a_line_that_ends_at_the_rate() -> None:
    chosen = settings(warmup_epochs=1.5, epochs=4)
    rates = [learning_rate(chosen, epoch, step, 4) for epoch in range(2) for step in range(4)]
    assert rates == pytest.approx([0.01 * part for part in (1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1)])
    cosine = settings(warmup_epochs=1, epochs=4, schedule="cosine")
    assert learning_rate(cosine, 0, 1, 4) == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi / 16)) / 2)


def test_optimiser_has_the_settings_and_the_trainable_weights() -> None:
    for name, kind in [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]:
        layer = torch.nn.Linear(2, 3)
        layer.bias.requires_grad_(False)
        optimizer = make_optimizer(settings(optimizer=name, weight_decay=0.03, momentum=0.7), layer)
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, kind)
        assert [id(weight) for weight in group["params"]] == [id(layer.weight)]
        assert (group["lr"], group["weight_decay"], group.get("momentum", 0.7)) == (0.01, 0.03, 0.7)


def test_weight_decay_leaves_out_norms_or_also_biases() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GroupNorm(2, 4), torch.nn.Flatten(),
        torch.nn.LayerNorm(4), torch.nn.Linear(4, 2),
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    norms = {"1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"}
    without: dict[str, set[str]] = {"none": set(), "norms": norms, "norms-and-biases": norms | {"0.bias", "5.bias"}}
    for choice, expected in without.items():
        groups = make_optimizer(settings(no_decay_on=choice, weight_decay=0.03), network).param_groups
        decays = {names[id(each)]: group["weight_decay"] for group in groups for each in group["params"]}
        assert decays == {name: 0.0 if name in expected else 0.03 for name in names.values()}


def test_nesterovs_momentum_looks_ahead() -> None:
    weight, velocity = 1.0, 0.0
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    optimizer = make_optimizer(settings(nesterov=True, momentum=0.9, weight_decay=0, learning_rate=0.1), layer)
    for _ in range(3):  # of f(w) = w^2 / 2, by Sutskever et al. 2013 as torch writes it
        velocity = 0.9 * velocity + weight
        weight -= 0.1 * (weight + 0.9 * velocity)
        optimizer.zero_grad()
        (layer(torch.ones(1)) ** 2 / 2).sum().backward()
        optimizer.step()
    assert layer.weight.item() == pytest.approx(weight, rel=1e-6)
    for given in ({"optimizer": "adamw"}, {"momentum": 0}):
        with pytest.raises(ValueError, match="--nesterov needs --optimizer sgd with a --momentum above 0"):
            settings(nesterov=True, **given)


def test_parameters_without_decay_need_decay() -> None:
    with pytest.raises(ValueError, match="--no-decay-on needs a --weight-decay above 0"):
        settings(no_decay_on="norms", weight_decay=0)


def test_epoch_leaves_out_the_smaller_last_batch_unless_it_is_kept() -> None:
    for images, kept in [(256, 256), (300, 300), (257, 256), (258, 258), (511, 511), (512, 512)]:
        assert images_per_epoch(images, settings()) == images // 256 * 256
        assert images_per_epoch(images, settings(keep_last=True)) == kept


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
