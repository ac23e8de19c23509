"""The classifier against an independent SGD in float64, scikit-learn, and loops written out."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.evaluate.linear.batches import StoredViews
from compress_ssl.pipeline.evaluate.linear.classifier import (
    Classifiers,
    Standardisation,
    accuracy,
    fit,
    fit_standardisation,
    hold_out,
    initial_state,
    train_classifiers,
)
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.training.schedule import epoch_order

N, D, C, V = 310, 24, 7, 3


def settings_of(**given: Any) -> LinearSettings:
    return LinearSettings(model="-", **{"epochs": 8, "classifier_batch_size": 32, "seed": 5, **given})


class Sample(NamedTuple):
    """Images whose class shows in their features, in V + 1 views."""

    views: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int32]


@pytest.fixture(scope="module")
def sample() -> Sample:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, C, N).astype(np.int32)
    centres = generator.normal(size=(C, D)) + 0.5
    views = centres[labels] + 0.9 * generator.normal(size=(V + 1, N, D))
    return Sample((3 * views).astype(np.float16), labels)


def trained(sample: Sample, settings: LinearSettings, *rates: float) -> Classifiers:
    views = StoredViews(sample.views.__getitem__, V, sample.labels)
    epochs = views.epochs(np.arange(N), 0, settings, "cpu", lambda images: None)
    state = initial_state(D, C, len(rates), settings)
    return train_classifiers(epochs, fit_standardisation([sample.views[0]]), state, rates, settings)


def standardised_in_float64(sample: Sample) -> torch.Tensor:
    unit = torch.from_numpy(sample.views).double()
    unit = unit / unit.norm(2, dim=2, keepdim=True)
    variance, mean = torch.var_mean(unit[0], dim=0)
    return (unit - mean) * (1.0 / torch.sqrt(variance + 1e-5))


def trained_in_float64(sample: Sample, settings: LinearSettings, rate: float) -> torch.nn.Linear:
    """The layer, loss, optimiser and schedule of torch, on the same batches."""
    views, labels = standardised_in_float64(sample), torch.from_numpy(sample.labels).long()
    linear = torch.nn.Linear(D, C).double()
    initial = initial_state(D, C, 1, settings)["parameters"][:, 0].double()
    linear.load_state_dict({"weight": initial[:D].T, "bias": initial[D]})
    optimizer = torch.optim.SGD(linear.parameters(), rate, momentum=0.9, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(settings.drops), gamma=0.1)
    for epoch in range(settings.epochs):
        order = epoch_order(np.arange(N), settings.seed, epoch)
        for start in range(0, N, settings.classifier_batch_size):
            rows = order[start : start + settings.classifier_batch_size]
            loss = torch.nn.functional.cross_entropy(linear(views[1 + epoch % V][rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return linear


@pytest.mark.parametrize("weight_decay", [1e-4, 0.05])
def test_classifiers_equal_an_independent_sgd_in_float64(sample: Sample, weight_decay: float) -> None:
    settings, rates = settings_of(weight_decay=weight_decay), (0.001, 0.01, 0.1)
    ours = trained(sample, settings, *rates)
    for number, rate in enumerate(rates):
        theirs = trained_in_float64(sample, settings, rate)
        expected = torch.cat([theirs.weight.T, theirs.bias[None]])
        torch.testing.assert_close(ours.parameters[:, number].double(), expected.detach(), rtol=0, atol=1e-5)
        logits = ours.logits(torch.from_numpy(sample.views[2]))[:, number].double()
        expected = theirs(standardised_in_float64(sample)[2]).detach()
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_rates_trained_together_do_not_know_of_each_other(sample: Sample) -> None:
    settings = settings_of()
    together = trained(sample, settings, 0.02, 0.5)
    for number, rate in enumerate((0.02, 0.5)):
        alone = trained(sample, settings, rate)
        torch.testing.assert_close(alone.parameters[:, 0], together.parameters[:, number], rtol=1e-5, atol=1e-5)


def test_initial_weights_are_spread_as_those_of_torch() -> None:
    parameters = initial_state(400, 900, 2, settings_of())["parameters"]
    torch.manual_seed(0)
    theirs = torch.nn.Linear(400, 900).requires_grad_(False)
    assert torch.equal(parameters[:, 0], parameters[:, 1])
    for ours, weights in ((parameters[:400], theirs.weight), (parameters[400:], theirs.bias)):
        assert ours.abs().max() <= 1 / math.sqrt(400)
        assert abs(float(ours.std() / weights.std()) - 1) < 0.1
    assert not torch.equal(parameters, initial_state(400, 900, 2, settings_of(seed=6))["parameters"])


def test_published_milestones_and_those_of_other_lengths() -> None:
    assert LinearSettings(model="-").drops == (15, 30)
    assert settings_of(epochs=8).drops == (3, 6)
    assert settings_of(epochs=8, milestones=(5,)).drops == (5,)


def test_statistics_read_in_blocks_are_those_of_all_rows(sample: Sample) -> None:
    features = sample.views[0]
    ours = fit_standardisation(iter([features[:7], features[7:8], features[8:]]))
    torch.testing.assert_close(
        ours(torch.from_numpy(sample.views[1])).double(), standardised_in_float64(sample)[1], rtol=1e-5, atol=1e-5
    )


def test_a_feature_that_never_changes_and_a_row_of_zeros_stay_numbers() -> None:
    features = np.zeros((6, 3), np.float16)
    features[1:, 0] = 2
    features[1:, 1] = [1, 2, 3, 4, 5]
    standardised = fit_standardisation([features])(torch.from_numpy(features))
    assert standardised.isfinite().all()
    assert (standardised[:, 2] == 0).all()


def test_an_epoch_has_every_image_once_and_the_view_is_its_number(sample: Sample) -> None:
    read: list[int] = []
    told: list[int] = []
    numbered = np.arange(N)[:, None] + np.zeros((1, D))

    def view(number: int) -> npt.NDArray[np.floating]:
        read.append(number)
        return numbered + N * number

    rows = np.arange(0, N, 2)
    seen = []
    epochs = StoredViews(view, V, sample.labels).epochs(rows, 1, settings_of(epochs=5), "cpu", told.append)
    for epoch, batches in enumerate(epochs, 1):
        features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        image = features[:, 0].long() - N * (1 + epoch % V)
        assert sorted(image.tolist()) == rows.tolist()
        np.testing.assert_array_equal(labels, sample.labels[image])
        seen.append(image.tolist())
    assert read == [2, 3, 1, 2]  # epochs 1 to 4
    assert len({tuple(order) for order in seen}) == 4
    assert sum(told) == 4 * len(rows)


def blocks(features: npt.NDArray[np.floating], rows: int) -> Iterator[npt.NDArray[np.floating]]:
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def test_top1_and_top5_are_those_of_scikit_learn(sample: Sample) -> None:
    classifiers = trained(sample, settings_of(epochs=1), 0.001, 0.01)
    features = sample.views[3]
    found = accuracy(classifiers, [blocks(features, 100)], sample.labels)
    for number in range(2):
        logits = classifiers.logits(torch.from_numpy(features))[:, number]
        for k, ours in ((1, found.top1_percent), (5, found.top5_percent)):
            assert ours[number] == pytest.approx(100 * top_k_accuracy_score(sample.labels, logits, k=k))
    assert found.top1_percent[0] < found.top5_percent[0] < 100


def test_probabilities_are_averaged_over_crops() -> None:
    """Two crops say class 0 narrowly, one says class 1 firmly.

    The mean of the probabilities is for 1, most crops for 0.
    """
    plain = Standardisation(torch.zeros(2), torch.ones(2))
    # logits are 10 * (x, y) of the unit vector
    classifiers = Classifiers(torch.tensor([[10.0, 0], [0, 10], [0, 0]])[:, None], plain)
    narrow, firm = np.array([[1.05, 1.0]]), np.array([[0.0, 1.0]])
    labels = np.array([1])
    assert accuracy(classifiers, [[narrow], [narrow], [firm]], labels).top1_percent == [100]
    assert accuracy(classifiers, [[narrow]], labels).top1_percent == [0]
    unit = [x / np.linalg.norm(x) for x in (narrow, narrow, firm)]
    probability = [np.exp(10 * x) / np.exp(10 * x).sum() for x in unit]
    assert np.mean(probability, axis=0).argmax() == 1


def test_crops_are_averaged_as_in_a_loop_over_images(sample: Sample) -> None:
    classifiers = trained(sample, settings_of(epochs=1), 0.003)
    found = accuracy(classifiers, [blocks(view, 64) for view in sample.views], sample.labels)
    right = 0
    for image in range(N):
        logits = classifiers.logits(torch.from_numpy(sample.views[:, image]))[:, 0].double()
        right += int(logits.softmax(1).mean(0).argmax()) == sample.labels[image]
    assert found.top1_percent[0] == pytest.approx(100 * right / N)


def test_a_tenth_of_each_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [2, 20, 95, 4]).astype(np.int32)
    (training, first), (_, again), (_, other) = hold_out(labels, 3), hold_out(labels, 3), hold_out(labels, 4)
    assert sorted([*training, *first]) == list(range(len(labels)))
    assert np.bincount(labels[first]).tolist() == [1, 2, 10, 1]
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    with pytest.raises(InputError, match=r"Class 1 has one training image, so none can be held out .* --lr-grid"):
        hold_out(np.array([0, 0, 1]), 0)


def test_the_rate_is_the_best_on_held_out_images_and_trained_again_on_all(sample: Sample) -> None:
    grid = (1e-6, 0.003, 0.3, 1e36)
    settings = settings_of(epochs=4, lr_grid=grid)
    views = StoredViews(sample.views.__getitem__, V, sample.labels)
    standardise = fit_standardisation([sample.views[0]])
    fitted = fit(views, sample.views[0].__getitem__, standardise, C, settings, Silent())
    training, held_out = hold_out(sample.labels, settings.seed)
    for number, rate in enumerate(grid[:3]):
        epochs = views.epochs(training, 0, settings, "cpu", lambda images: None)
        state = initial_state(D, C, 1, settings)
        alone = train_classifiers(epochs, standardise, state, [rate], settings)
        predicted = alone.logits(torch.from_numpy(sample.views[0][held_out]))[:, 0].argmax(1).numpy()
        expected = 100 * np.mean(predicted == sample.labels[held_out])
        assert fitted.held_out_top1_percent[rate] == pytest.approx(expected), number
    assert fitted.held_out_top1_percent[1e36] == 0  # diverged
    best = max(fitted.held_out_top1_percent.values())
    assert fitted.held_out_top1_percent[1e-6] < best
    assert fitted.learning_rate == min(rate for rate, top1 in fitted.held_out_top1_percent.items() if top1 == best)
    torch.testing.assert_close(
        fitted.classifiers.parameters, trained(sample, settings, fitted.learning_rate).parameters
    )


def test_a_training_that_diverges_says_so(sample: Sample) -> None:
    with pytest.raises(RunError, match="weights are no longer finite; lower --learning-rate"):
        trained(sample, settings_of(), 1e36)
