"""All evaluations of one model, and the rows beside it: an untrained network, a supervised one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.evaluate.run import evaluate, evaluate_all, evaluate_with_baselines
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.networks.network import load_network, save_network

MACHINE: dict[str, Any] = {"size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision"}


def run_of(data: Path, last_scale: float = 1.0) -> Path:
    """A run of a conv4 whose last batch norm has this scale."""
    network = load_network("random/conv4-16")
    network.module.state_dict()["13.weight"].fill_(last_scale)
    folder = data.parent / "run"
    folder.mkdir()
    save_network(folder / MODEL_FILE, network)
    return folder


def with_baselines(model: Path, baselines: Sequence[str], **given: Any) -> list[Path]:
    settings = KnnSettings(model=str(model), **{**MACHINE, **given})
    return [each.path for each in evaluate_with_baselines(settings, baselines, Silent())]


def test_all_runs_what_the_data_allow_and_says_why_of_the_rest(teacher: Path) -> None:
    results, left_out = evaluate_all({"model": str(teacher), **MACHINE}, Silent())
    assert [path.name for path in results] == ["nearest-neighbour.json", "linear.json", "low-shot.json", "cluster.json"]
    assert {name: reason.partition(",")[0] for name, reason in left_out.items()} == {
        "layers": f"'{teacher}' is a store of embeddings",
        "voc-classify": "--data is needed for the annotations of the images; give the folder with JPEGImages.",
        "voc-detect": f"--data is needed to compute the features of '{teacher}'; only a store has them already.",
    }


def test_an_evaluation_that_fails_leaves_the_others(data: Path) -> None:
    common = {"model": str(run_of(data, last_scale=1e30)), "data": data, "limit": 20, **MACHINE}
    results, left_out = evaluate_all(common, Silent())
    assert left_out["layers"].startswith("The classifier of layer conv4 is not finite after epoch ")
    assert {path.name for path in results} == {
        *("nearest-neighbour.json", "linear.json", "low-shot.json", "cluster.json")
    }


def test_what_no_evaluation_can_use_is_an_error(data: Path) -> None:
    with pytest.raises(InputError, match="'nowhere' does not exist; give a store, "):
        evaluate_all({"model": "nowhere", "data": data, **MACHINE}, Silent())


def test_an_untrained_baseline_is_the_same_architecture_at_the_same_sizes(data: Path) -> None:
    run = run_of(data, last_scale=0.5)
    own, baseline = (json.loads(path.read_bytes()) for path in with_baselines(run, ["random"], data=data, limit=20))
    assert (own["network"]["name"], baseline["network"]["name"]) == ("run", "conv4-16, untrained")
    assert baseline["network"]["weights_sha256"] == load_network("random/conv4-16").identity()["weights_sha256"]
    alone = KnnSettings(model="random/conv4-16", data=data, output=data.parent / "alone", limit=20, **MACHINE)
    assert baseline["scores"] == evaluate(alone, Silent()).result.scores()


def test_a_store_has_a_baseline_where_its_images_are_given(data: Path, teacher: Path) -> None:
    paths = with_baselines(teacher, ["random"], data=data)
    own, baseline = (json.loads(path.read_bytes()) for path in paths)
    assert own["scores"] == baseline["scores"]  # its teacher is the untrained network


@pytest.mark.parametrize(("baseline", "given", "sentence"), [
    ("torchvision", True, "There is no torchvision network 'conv4-16'"),
    ("random", False, "--baseline random needs the images, which a store does not have; give the dataset with --data"),
])  # fmt: skip
def test_a_baseline_that_cannot_be_is_found_before_anything_is_scored(
    data: Path, teacher: Path, baseline: str, given: bool, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        with_baselines(teacher, [baseline], **({"data": data} if given else {}))
    assert not list(data.parent.rglob("nearest-neighbour.json"))
