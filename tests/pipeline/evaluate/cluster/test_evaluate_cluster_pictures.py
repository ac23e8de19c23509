"""Pictures of clusters: what they show is what was counted, and nothing is chosen by hand."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from PIL import Image

from compress_ssl.pipeline.evaluate.cluster.pictures import (
    choose_images,
    confusion,
    draw_confusion,
    draw_images,
    draw_sizes,
)


def pixels_of(figure: Figure) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_images_are_members_of_clusters_drawn_by_the_seed() -> None:
    clustering = np.random.default_rng(0).integers(0, 30, 500)
    chosen = choose_images(clustering, 8, 5, seed=1)
    assert len(chosen) == 8
    for cluster, rows in chosen.items():
        assert len(set(rows.tolist())) == 5
        assert (clustering[rows] == cluster).all()
    again, other = choose_images(clustering, 8, 5, seed=1), choose_images(clustering, 8, 5, seed=2)
    assert {cluster: rows.tolist() for cluster, rows in chosen.items()} == {
        cluster: rows.tolist() for cluster, rows in again.items()
    }
    assert chosen.keys() != other.keys()


def test_fewer_clusters_and_images_than_asked_for_are_all_shown_and_empty_clusters_left_out() -> None:
    chosen = choose_images(np.array([0, 5, 5, 5]), 10, 20, seed=0)
    assert {cluster: sorted(rows.tolist()) for cluster, rows in chosen.items()} == {0: [0], 5: [1, 2, 3]}


def test_confusion_is_counted_by_a_loop() -> None:
    generator = np.random.default_rng(0)
    labels, answers = generator.integers(0, 4, 100), generator.integers(-1, 4, 100)
    table = confusion(answers, labels, 5)
    assert table.shape == (5, 6)
    for label in range(5):
        mine = answers[labels == label]
        for column, answer in enumerate([0, 1, 2, 3, 4, -1]):
            share = 100 * sum(mine == answer) / len(mine) if len(mine) else 0
            assert table[label, column] == pytest.approx(share)


def test_every_image_is_in_the_picture_as_it_is() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8) for count in (3, 1)]
    pixels = pixels_of(draw_images(rows, ["cluster 1", "cluster 2"], 3))
    assert pixels.shape == (2 * 120 + 4, 3 * 100 + 4, 3)
    for number, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = number * 120 + 20, column * 100 + 4
            np.testing.assert_array_equal(pixels[top : top + 96, left : left + 96], image)
    assert (pixels[140:240, 110:] == 255).all()  # the second row has one image


def test_few_classes_are_named_and_many_are_not() -> None:
    few = draw_confusion(confusion(np.arange(10), np.arange(10), 10), [f"class {n}" for n in range(10)])
    assert [label.get_text() for label in few.axes[0].get_yticklabels()] == [f"class {n}" for n in range(10)]
    assert [text.get_text() for text in few.axes[0].texts] == ["100"] * 10
    many = draw_confusion(confusion(np.arange(1000), np.arange(1000), 1000), [f"class {n}" for n in range(1000)])
    assert not many.axes[0].texts
    # A single class of 1,000 still has a pixel of its own.
    many.canvas.draw()
    assert many.axes[0].get_window_extent().width >= 1000


def test_clusters_without_a_class_have_a_column_of_their_own() -> None:
    with_none = draw_confusion(confusion(np.array([0, -1]), np.array([0, 1]), 2), ["a", "b"])
    assert [label.get_text() for label in with_none.axes[0].get_xticklabels()] == ["a", "b", "no class"]


def test_sizes_are_counted_with_the_empty_ones() -> None:
    figure = draw_sizes(np.array([0, 0, 5, 7, 100]))
    assert figure.axes[0].get_title() == "5 clusters of 0 to 100 images, 2 empty"
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 5  # type: ignore[attr-defined]
