"""Detection on VOC: what a detector is shown and what comes back, which networks it takes, and the stage."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import VocDetectSettings
from compress_ssl.pipeline.evaluate.voc.average_precision import Detections, GroundTruth
from compress_ssl.pipeline.evaluate.voc.detect import detection_result
from compress_ssl.pipeline.evaluate.voc.detector import build_detector, set_training
from compress_ssl.pipeline.evaluate.voc.images import annotated_images, detect, make_target
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.networks.network import load_network, weights_sha256

SMALL = "random/resnet18-narrow-32px"


def settings_of(data: Path, folder: Path, model: str = SMALL, **given: Any) -> VocDetectSettings:
    values: dict[str, Any] = {
        "output": folder, "device": "cpu", "threads": 1, "min_size": 16, "max_size": 24, "anchor_sizes": (8,),
        "regions": 16, "epochs": 1, "detector_batch_size": 4, "pictures": 3, "limit": 8,
    }  # fmt: skip
    return VocDetectSettings(model=model, data=data, **{**values, **given})


def losses_of(settings: VocDetectSettings, image: torch.Tensor, there: GroundTruth) -> tuple[nn.Module, torch.Tensor]:
    """A detector and its summed losses on one image."""
    detector = build_detector(load_network(settings.model), 2, settings)
    set_training(detector)
    shown = make_target(image, there, flip=False, device=torch.device("cpu"))
    return detector, sum(detector([shown.image], [shown.objects]).values(), torch.zeros(()))


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_hold_the_objects_pixels_to_the_edge(flip: bool) -> None:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:10, 2:9] = 255  # rows 5 to 10 and columns 3 to 9, counted from 1
    there = GroundTruth(np.array([[3, 5, 9, 10.0]]), np.array([1]), np.array([False]))
    shown = make_target(image, there, flip=flip, device=torch.device("cpu"))
    left, top, right, bottom = shown.objects["boxes"][0].int().tolist()
    assert shown.image[:, top:bottom, left:right].min() == 1
    assert shown.image.sum() == 3 * (bottom - top) * (right - left)
    assert shown.objects["labels"].tolist() == [2]
    assert there.boxes.tolist() == [[3, 5, 9, 10]]


def test_difficult_objects_are_not_learnt() -> None:
    there = GroundTruth(np.array([[3, 5, 9, 10], [1, 1, 4, 4.0]]), np.array([1, 0]), np.array([True, False]))
    shown = make_target(torch.zeros(3, 20, 30, dtype=torch.uint8), there, flip=False, device=torch.device("cpu"))
    assert shown.objects["boxes"].tolist() == [[0, 0, 4, 4]]
    assert shown.objects["labels"].tolist() == [1]


def test_detections_come_back_in_vocs_pixels_and_numbers(voc: Path, tmp_path: Path) -> None:
    settings = settings_of(voc, tmp_path, detector_batch_size=3, precision="float32")
    index = index_data_set(voc, ["test"], tmp_path, settings, threads=1, progress=Silent())["test"]
    (images,), names = annotated_images(voc, [index])
    assert names == ("blue", "red")

    class Oracle(nn.Module):
        """Answers with the boxes that it was made with."""

        def forward(self, shown: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [next(answers) for _ in shown]

    exact = (make_target(image, there, flip=False, device=torch.device("cpu")).objects
             for batch in images.read(np.arange(8), 3, 1) for image, there in batch)  # fmt: skip
    answers = ({**each, "scores": torch.full((len(each["labels"]),), 0.5)} for each in exact)
    found = detect(Oracle(), images, settings, torch.device("cpu"), Silent())
    result = detection_result(found, images.ground_truth, images.ground_truth, names)
    assert result.mean_average_precision_percent == result.coco_average_precision_percent == 100
    count = sum(len(each.boxes) - each.difficult.sum() for each in images.ground_truth)
    assert sum(each.test_objects for each in result.classes) == count


def test_class_without_an_object_in_the_test_images_does_not_count() -> None:
    there = [GroundTruth(np.array([[1, 1, 5, 5.0]]), np.array([0]), np.array([False]))]
    found = [Detections(np.array([[1, 1, 5, 5.0]]), np.array([0]), np.array([0.9]))]
    result = detection_result(found, there, there, ("here", "nowhere"))
    assert [each.name for each in result.classes] == ["here"]
    assert result.mean_average_precision_percent == 100


@pytest.mark.parametrize(
    ("architecture", "scales"),
    [
        ("resnet18", "single"),
        ("resnet18-32px", "single"),
        ("resnet18-narrow-32px", "fpn"),
        ("resnet50-tf-same", "fpn"),
        ("alexnet", "single"),
        ("alexnet-32px", "single"),
    ],
)
def test_networks_become_detectors_all_of_whose_layers_learn(
    architecture: str, scales: str, voc: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"scales": scales, "anchor_sizes": (8, 12, 16, 24, 32) if scales == "fpn" else (16,)}
    if not architecture.endswith("-32px"):
        given |= {"min_size": 32, "max_size": 48}
    settings = settings_of(voc, tmp_path, f"random/{architecture}", **given)
    there = GroundTruth(np.array([[10, 10, 30, 30.0]]), np.array([1]), np.array([False]))
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    detector, loss = losses_of(settings, image, there)
    loss.backward()  # type: ignore[no-untyped-call]
    own = {tuple(weight.shape) for weight in load_network(settings.model).module.parameters()}
    assert own <= {tuple(weight.shape) for weight in detector.parameters()}
    still = [name for name, weight in detector.named_parameters() if weight.grad is None]
    assert still == []
    detector.eval()
    (answer,) = detector([image / 255])
    assert answer["boxes"].shape[1] == 4


def test_boxes_are_not_rounded_to_half_precision(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress_ssl.pipeline.evaluate.voc.detector.TEST_PROPOSALS", 12)  # many CPUs emulate bfloat16
    there = GroundTruth(np.array([[10, 10, 30, 30.0]]), np.array([1]), np.array([False]))
    given = {"min_size": 128, "max_size": 150, "anchor_sizes": (64,)}
    detector, _ = losses_of(settings_of(voc, tmp_path, **given), torch.zeros(3, 48, 64, dtype=torch.uint8), there)
    detector.eval()
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (answer,) = detector([image])
    inside = answer["boxes"][(answer["boxes"] > 32) & (answer["boxes"] < 127)]
    assert len(inside) > 10
    assert inside.dtype == torch.float32
    assert (inside != inside.bfloat16().float()).float().mean() > 0.9


def test_batch_norm_keeps_its_statistics(voc: Path, tmp_path: Path) -> None:
    there = GroundTruth(np.array([[10, 10, 30, 30.0]]), np.array([1]), np.array([False]))
    detector, _ = losses_of(settings_of(voc, tmp_path), torch.full((3, 48, 64), 200, dtype=torch.uint8), there)
    statistics = {name: buffer for name, buffer in detector.named_buffers() if name.endswith(("_mean", "_var"))}
    assert len(statistics) > 20
    for name, buffer in statistics.items():
        assert buffer.unique().tolist() == [float(name.endswith("_var"))], name


@pytest.mark.parametrize(
    ("model", "given", "sentence"),
    [
        ("random/conv4-16", {}, "A detector cannot be built around conv4-16; use AlexNet or one of torchvision's Res"),
        ("random/alexnet", {"scales": "fpn"}, "alexnet has one scale only; use --scales single"),
        (SMALL, {"scales": "fpn"}, "A feature pyramid has 5 levels and needs as many --anchor-sizes, .*; 1 were given"),
        (SMALL, {"detector_batch_size": 30}, "--detector-batch-size 30 exceeds the 8 training images; lower it"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    model: str, given: dict[str, Any], sentence: str, voc: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(settings_of(voc, tmp_path / "out", model, **given), Silent())
    assert not (tmp_path / "out" / "voc-detect").exists()


def test_split_without_objects_is_one_sentence(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("000024\n000028\n")
    with pytest.raises(InputError, match="No image of split test has an object that is not difficult"):
        evaluate(settings_of(voc, tmp_path / "out"), Silent())


TWO_EPOCHS: dict[str, Any] = {"epochs": 2, "score_every": 1, "limit": 4, "detector_batch_size": 2}


@pytest.fixture(scope="module")
def trained(voc_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a detection of two epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    evaluate(settings_of(voc_images, folder, **TWO_EPOCHS), Silent())
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "voc-detect.json").read_bytes())["result"]
    return result


def test_stage_leaves_result_curve_boxes_and_detector(trained: Path) -> None:
    written = json.loads((trained / "voc-detect.json").read_bytes())
    assert written["result"]["note"] == "Faster R-CNN; the paper's figures are of Fast R-CNN with selective search"
    assert all("paper: Fast R-CNN" in heading for heading in written["scores"])
    start = load_network(SMALL).module
    assert written["network"]["weights_sha256"] == weights_sha256(start)
    for picture in ("voc-detect-curve.png", "voc-detect-boxes.png"):
        with Image.open(trained / picture) as opened:
            assert min(opened.size) > 200
    lines = [json.loads(line) for line in (trained / "voc-detect" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines if "voc_ap_percent" in line] == [(0, 0), (0, 2), (1, 2)]
    assert lines[-1]["voc_ap_percent"] == pytest.approx(written["result"]["mean_average_precision_percent"])
    weights = load_file(trained / "voc-detect" / "detector.safetensors")
    assert weights["backbone.0.weight"].shape == start.state_dict()["conv1.weight"].shape
    assert not torch.equal(weights["backbone.0.weight"], start.state_dict()["conv1.weight"])


class Killed(Exception):
    """Stands for the end of a process that is killed."""


class KillsItself(Silent):
    """Progress that ends everything after training on this many images."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Any]:
        def advance(amount: int) -> None:
            if title == "fine-tune":
                self._left -= amount
                if self._left < 0:
                    raise Killed

        yield advance


def test_killed_training_is_resumed_and_ends_in_the_same_weights(trained: Path, voc: Path, tmp_path: Path) -> None:
    given = {**TWO_EPOCHS, "score_every": None, "checkpoint_minutes": 1e-9, "pictures": 0}
    settings = settings_of(voc, tmp_path / "killed", **given)
    for images in (3, 5):  # in the first epoch; in the second
        with pytest.raises(Killed):
            evaluate(settings, KillsItself(images))
    evaluate(settings, Silent())
    killed, whole = (folder / "voc-detect" / "detector.safetensors" for folder in (tmp_path / "killed", trained))
    assert killed.read_bytes() == whole.read_bytes()
    assert result_of(tmp_path / "killed") == result_of(trained)


def test_training_of_other_settings_starts_over(
    trained: Path, voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "out"))
    metrics = out / "voc-detect" / "metrics.jsonl"
    first = metrics.read_bytes()
    evaluate(settings_of(voc, out, pictures=0, **TWO_EPOCHS), Silent())
    assert metrics.read_bytes() == first
    assert "starts over" not in caplog.text
    evaluate(settings_of(voc, out, pictures=0, regions=8, **TWO_EPOCHS), Silent())
    assert "The training starts over, since the existing one cannot be resumed" in caplog.text
    assert "inputs.detector.regions = 16, now it is 8" in caplog.text
    assert metrics.read_bytes() != first
