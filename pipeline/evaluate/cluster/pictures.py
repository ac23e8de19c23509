"""Pictures of a clustering: images of random clusters (the paper's figure), the confusion matrix, the cluster sizes.

Nothing is selected by hand: clusters and images are drawn from the seed.

Letters: R rows (clusters), J columns (images of each), S side of a small picture in pixels, K clusters, C classes.
"""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from compress_ssl.pipeline.common.figures import write_figure
from compress_ssl.pipeline.evaluate.cluster.alignment import NO_CLASS, Clustering, Integers, align_clusters
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import ClusterSettings
from compress_ssl.pipeline.images.parameters import evaluation_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import Split

logger = logging.getLogger(__name__)

IMAGES_FILE, CONFUSION_FILE, SIZES_FILE = "cluster-images.png", "cluster-confusion.png", "cluster-sizes.png"

SIDE = 96
GAP = 4
DOTS_PER_INCH = 100
NAMED_CLASSES = 30  # A confusion matrix of more classes shows neither their names nor numbers


def draw_pictures(
    settings: ClusterSettings, source: FeatureSource, train: Split, test: Split, clustering: Clustering, clusters: int
) -> None:
    """Write the pictures of a clustering into the folder of the results."""
    classes = align_clusters(clustering.train, train.samples.label[train.samples.good], clusters)
    labels = test.samples.label[test.samples.good]
    table = confusion(classes[clustering.test], labels, len(test.class_names))
    sizes = np.bincount(clustering.train, minlength=clusters)
    write_figure(draw_confusion(table, test.class_names), source.folder / CONFUSION_FILE)
    write_figure(draw_sizes(sizes), source.folder / SIZES_FILE)
    if settings.data is None:
        logger.warning("No images of the clusters were drawn: a store has none; give the dataset with --data.")
        return
    chosen = choose_images(clustering.train, settings.rows, settings.columns, settings.seed)
    names = {NO_CLASS: "no class", **dict(enumerate(train.class_names))}
    titles = [f"cluster {number}, {sizes[number]} images: {names[int(classes[number])]}" for number in chosen]
    stored = np.flatnonzero(train.samples.good)[np.concatenate(list(chosen.values()))]
    centre_squares = evaluation_parameters(train.samples.image_size[stored], SIDE, SIDE)[:, None]
    images = open_source(source.data, train.folder, source.index_folder)
    job = RenderJob.of(images, train.samples, stored, parameters=centre_squares, sizes=(SIDE,))
    pictures = np.concatenate([pixels.cpu().numpy() for (pixels,) in render(source.renderer, job, 64)])
    rows = np.split(pictures, np.cumsum([len(images) for images in chosen.values()])[:-1])
    write_figure(draw_images(rows, titles, settings.columns), source.folder / IMAGES_FILE)


def choose_images(clustering: Integers, rows: int, columns: int, seed: int) -> dict[int, npt.NDArray[np.int64]]:
    """Draw clusters (``rows`` of those not empty) and images of each (``columns``), fewer where there are fewer.

    Takes the cluster (N,) of each image; returns the images' row numbers by cluster.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    filled = np.unique(clustering)
    drawn = generator.choice(filled, min(rows, len(filled)), replace=False)
    chosen = {}
    for cluster in drawn:
        images = np.flatnonzero(clustering == cluster)
        chosen[int(cluster)] = generator.choice(images, min(columns, len(images)), replace=False)
    return chosen


def confusion(predictions: Integers, labels: Integers, classes: int) -> npt.NDArray[np.float64]:
    """Return the confusion matrix (C, C + 1), in percent of each class; the last column is ``NO_CLASS``."""
    table = np.zeros((classes, classes + 1))
    np.add.at(table, (labels, predictions), 1)  # NO_CLASS, -1, is the last column
    table *= 100 / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return table


def draw_images(rows: Sequence[npt.NDArray[np.uint8]], titles: Sequence[str], columns: int) -> Figure:
    """Draw one titled row of up to J images (J, S, S, 3) for each of R clusters."""
    step, band = SIDE + GAP, 20
    width, height = columns * step + GAP, len(rows) * (step + band) + GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, (images, title) in enumerate(zip(rows, titles, strict=True)):
        top = number * (step + band) + band
        axes.text(GAP, top - band / 2, title, fontsize=8, va="center")
        for column, image in enumerate(images):
            left = column * step + GAP
            canvas[top : top + SIDE, left : left + SIDE] = image
    axes.imshow(canvas, interpolation="none", aspect="auto")
    return figure


def draw_confusion(table: npt.NDArray[np.float64], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, true classes down; class names and numbers are shown if there are few classes."""
    shown, predicted = table, [*class_names, "no class"]
    if not table[:, -1].any():
        shown, predicted = table[:, :-1], list(class_names)
    few = len(class_names) <= NAMED_CLASSES
    side = 3 + 0.45 * len(class_names) if few else 16  # inches: one pixel per class up to 1,000 classes
    figure = Figure(figsize=(side + 1, side), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    colours = ("Blues", PowerNorm(1.0, 0, 100)) if few else ("magma", PowerNorm(0.35, 0, 100))
    picture = axes.imshow(shown, cmap=colours[0], norm=colours[1])
    axes.set(xlabel="class of the cluster", ylabel="true class", title="Test images, percent of the true class")
    if few:
        axes.set_xticks(range(len(predicted)), predicted, rotation=90)
        axes.set_yticks(range(len(class_names)), class_names)
        for (row, column), value in np.ndenumerate(shown):
            if value > 0.5:
                colour = "white" if value > 60 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def draw_sizes(sizes: Integers) -> Figure:
    """Draw a histogram of the numbers of training images (K,) of the clusters."""
    figure = Figure(figsize=(7, 4.5), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(sizes, bins=min(50, max(10, len(sizes) // 4)), color="tab:blue", edgecolor="white")
    axes.axvline(float(sizes.mean()), color="tab:orange", label=f"mean {sizes.mean():.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    empty = np.count_nonzero(sizes == 0)
    title = f"{len(sizes)} clusters of {sizes.min()} to {sizes.max()} images, {empty} empty"
    axes.set(xlabel="training images in a cluster", ylabel="clusters", title=title)
    axes.legend()
    return figure
