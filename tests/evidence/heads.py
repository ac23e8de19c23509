"""NN of a head's outputs beside that of the features: ``python -m tests.evidence.heads FOLDER DATA [STUDENT ...]``.

FOLDER is that of a sweep whose students were evaluated, DATA their dataset. The head is dropped at export; is it where
the score is lost?
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings, SplitSource
from compress_ssl.pipeline.evaluate.feature_source import list_of_images
from compress_ssl.pipeline.evaluate.features import Features, StoredFeatures
from compress_ssl.pipeline.evaluate.knn.accuracy import nearest_neighbour_accuracy
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.networks.heads import HEADS
from compress_ssl.pipeline.training.checkpoint import read_checkpoint
from compress_ssl.storage import open_store
from tests.benchmarks.measure import print_table

HEAD = "objective.projection."
"""How the names of a head's weights begin in a checkpoint."""


def head_of(weights: dict[str, Tensor], feature_dim: int) -> nn.Module:
    """Return the head that has these weights, in evaluation mode."""
    last = list(weights)[-1]
    for build in HEADS.values():
        head = build(feature_dim, len(weights[last]))
        if shapes(head.state_dict()) == shapes(weights):
            head.load_state_dict(weights)
            return head.eval()
    raise ValueError(f"no head has the weights {shapes(weights)}")


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of weights by name."""
    return {name: each.shape for name, each in weights.items()}


def nn_percent(train: Features, test: Features, head: nn.Module) -> float:
    """Return the accuracy of nearest neighbours by cosine of a head's outputs."""
    with torch.inference_mode():
        outputs = [head(torch.from_numpy(each.features.astype(np.float32))).numpy() for each in (train, test)]
    found = nearest_neighbours(*outputs, 1)
    return nearest_neighbour_accuracy(found, train.labels, test.labels).top1_percent


def embed_again(run: Path, evaluated: Path, data: Path) -> list[Features]:
    """Return the student's features of the training and the test images that were evaluated, not normalised."""
    settings = json.loads((evaluated / "nearest-neighbour.json").read_text(encoding="utf-8"))["settings"]
    names = settings["train_split"], settings["test_split"]
    stored = open_store(evaluated / "features.zarr")
    with tempfile.TemporaryDirectory() as folder:
        subset = Path(folder) / "images.txt"
        subset.write_text(list_of_images(stored[name] for name in names), encoding="utf-8")
        made = embed(
            EmbedSettings(
                data=data,
                store=f"{folder}/features.zarr",
                teacher=str(run),
                split=tuple(SplitSource(name=name, folder=name, views=0) for name in names),
                subset=subset,
                **{name: settings[name] for name in ("size", "resize", "squash", "pool", "precision", "renderer")},
                threads=1,
            ),
            Silent(),
        )
        return [StoredFeatures(name, made[name]).in_memory() for name in names]


def main() -> None:
    """Print a row for each student that has a head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("students", nargs="*", help="names (default: all)")
    given = parser.parse_args()
    rows = []
    for evaluated in sorted((given.folder / "evaluation").glob("*")):
        run = given.folder / evaluated.name
        state = read_checkpoint(run, torch.device("cpu")) if run.name in (given.students or [run.name]) else None
        modules = {} if state is None else state["modules"]
        weights = {name.removeprefix(HEAD): modules[name] for name in modules if name.startswith(HEAD)}
        if weights:
            train, test = embed_again(run, evaluated, given.data)
            heads = nn.Identity(), head_of(weights, train.features.shape[1])
            rows.append([run.name, *(f"{nn_percent(train, test, each):.1f}" for each in heads)])
    if not rows:
        parser.error(f"no evaluated student in {given.folder} has a head")
    print_table(["student", "features", "head's outputs"], rows)


if __name__ == "__main__":
    main()
