"""Objectives as a library: on plain tensors, without settings; and a new one as one file and one line."""

import doctest
import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_origin

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.objectives import OBJECTIVES, SUPPLIED, read_signature
from compress_ssl.pipeline.distill.objectives.compress_1q import CompRess1q
from compress_ssl.pipeline.distill.objectives.compress_2q import CompRess2q
from compress_ssl.pipeline.distill.objectives.crd import CRD
from compress_ssl.pipeline.distill.objectives.objective import Batch, infer_feature_dim
from compress_ssl.pipeline.distill.objectives.regression import SimReg
from compress_ssl.pipeline.distill.settings import DEFAULTS, DistillSettings
from compress_ssl.pipeline.networks.architectures import build_backbone

ROOT = Path(__file__).parents[3]


def imported(name: str) -> type[nn.Module]:
    module, _, class_name = OBJECTIVES[name].partition(":")
    found: type[nn.Module] = getattr(import_module(module), class_name)
    return found


def test_the_examples_run() -> None:
    names = {"torch": torch, "Batch": Batch}
    for module in (inspect.getmodule(imported(name)) for name in OBJECTIVES):
        result = doctest.testmod(module, extraglobs=names)
        assert result.failed == 0
        assert result.attempted >= 5, module


def test_options_read_from_the_source_are_those_of_the_imported_classes() -> None:
    for name in OBJECTIVES:
        parameters = inspect.signature(imported(name)).parameters.values()
        keywords = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        read = read_signature(name)
        assert [each.name for each in keywords if each.name not in SUPPLIED] == list(read)
        for each in keywords:
            if each.name in read:
                assert repr((each.annotation, each.default)) == repr(read[each.name]), (name, each.name)
                assert each.name == "head" or get_origin(each.annotation) is Annotated
            else:
                assert (
                    each.name in ("teacher_dim", "images", "projection_head")
                    or each.default is not inspect.Parameter.empty
                )


def test_an_option_of_several_objectives_is_declared_the_same_way_in_each() -> None:
    declared: dict[str, list[Any]] = {}
    for name in OBJECTIVES:
        for option, (annotation, _) in read_signature(name).items():
            declared.setdefault(option, []).append(annotation)
    assert all(len(set(map(repr, annotations))) == 1 for annotations in declared.values())


def test_defaults_of_the_settings_are_those_of_the_classes() -> None:
    for name, defaults in DEFAULTS.items():
        heads = {"teacher_head": ("e",)} if name == "retro" else {}
        settings = DistillSettings(store="a", data="b", run="c", student="d", objective=name, **heads)
        parameters = inspect.signature(imported(name)).parameters
        assert defaults == {option: parameters[option].default for option in defaults}
        assert settings.objective_options == {
            option: each.default for option, each in parameters.items() if option in read_signature(name)
        }


def test_an_objective_goes_on_from_its_state_dict_as_if_it_had_not_stopped() -> None:
    """The rows of both banks stay those of the same images."""
    images, teacher = torch.randn(8, 6), normalize(torch.randn(8, 32))
    student = nn.Linear(6, 16)
    first, second = (CompRess2q(student, teacher_dim=32, bank_size=20, key_momentum=0.9) for _ in range(2))
    for _ in range(2):
        first(student, Batch(images, teacher))
        first.after_step(student)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(student, Batch(images, teacher))[0], second(student, Batch(images, teacher))[0])


@pytest.mark.parametrize("name", ["compress-2q", "compress-1q", "seed", "crd", "lightly"])
def test_a_loss_in_evaluation_mode_changes_no_bank(name: str) -> None:
    options = {"negative_queue": 20} if name == "crd" else {"bank_size": 20}
    student = nn.Linear(6, 32)
    objective = imported(name)(student, teacher_dim=32, **options)
    batch = Batch(torch.randn(8, 6), normalize(torch.randn(8, 32)))
    objective(student, batch)
    objective.after_step(student)
    before = {key: value.clone() for key, value in objective.state_dict().items() if "bank" in key or "memory" in key}
    objective.eval()
    objective(student, batch)
    objective.after_step(student)
    assert before
    assert all(torch.equal(objective.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("options", [{"centre": True}, {"anchors": "k-means"}, {"anchors": "random"}])
def test_a_loss_before_fit_teacher_is_nan(options: dict[str, Any]) -> None:
    student = nn.Linear(6, 32)
    objective = CompRess1q(student, teacher_dim=32, bank_size=20, **options)
    assert torch.isnan(objective(student, Batch(torch.randn(8, 6), normalize(torch.randn(8, 32))))[0])


def losses(student: nn.Module, objective: Any, images: Tensor, dim: int, steps: int = 3) -> list[float]:
    optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.05)
    teacher, found = normalize(torch.randn(len(images), dim)), []
    for _ in range(steps):
        loss, _ = objective(student, Batch(images, teacher))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(student)
        found.append(loss.item())
    return found


def test_students_of_torch_torchvision_and_timm_are_trained_as_they_are() -> None:
    from torchvision.models import resnet18

    for student, size, dim in (
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12)), 8, 12),
        (timm.create_model("test_efficientnet_ln", num_classes=0), 32, 256),
        (nn.Sequential(resnet18(), nn.ReLU()), 32, 1000),
        (build_backbone("conv4-16", 0).module, 16, 16),
    ):
        objective = CompRess2q(student, teacher_dim=20, bank_size=30, temperature=0.04)
        assert objective.student_dim == dim
        assert all(0 < loss < 50 for loss in losses(student, objective, torch.randn(4, 3, size, size), 20))


def test_widths_are_inferred_from_the_last_layer_that_has_one() -> None:
    for layer, dim in (
        (nn.Linear(3, 5), 5),
        (nn.BatchNorm2d(6), 6),
        (nn.Conv2d(3, 7, 1), 7),
        (nn.LayerNorm((4, 8)), 8),
        (nn.GroupNorm(3, 9), 9),
        (nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 10), nn.ReLU(), nn.Flatten()), 10),
    ):
        assert infer_feature_dim(layer) == dim
    with pytest.raises(InputError, match="dimension of a ReLU cannot be inferred; pass student_dim"):
        infer_feature_dim(nn.ReLU())


def test_features_of_another_width_are_named() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    images = torch.randn(2, 3, 5, 5)
    with pytest.raises(InputError, match=r"returns \(100,\) features per image, and \(4,\) .* pass student_dim=100"):
        SimReg(student, teacher_dim=8)(student, Batch(images, normalize(torch.randn(2, 8))))
    assert losses(student, SimReg(student, teacher_dim=8, student_dim=100), images, 8)[-1] < 4


def test_what_an_objective_needs_and_did_not_get_is_named() -> None:
    student, batch = nn.Linear(6, 16), Batch(torch.randn(8, 6), normalize(torch.randn(8, 32)))
    for made in (
        CompRess1q(student, teacher_dim=32, bank_size=9, mask_own=True),
        CRD(student, teacher_dim=32, images=9),
    ):
        with pytest.raises(InputError, match=r"pass Batch\.rows, the row of each image"):
            made(student, batch)
    with pytest.raises(InputError, match="pass images, their number, or a negative_queue"):
        CRD(student, teacher_dim=32)
    with pytest.raises(InputError, match="Head 'none' keeps the student's 16 features, which CompRess1q cannot"):
        CompRess1q(student, teacher_dim=32, head="none")


TOY = '''
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated
from torch import nn
from compress_ssl.pipeline.distill.objectives.objective import Objective

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.settings import result_option
    from compress_ssl.pipeline.distill.objectives import options


class Toy(Objective):
    """Pull the projected feature towards the teacher's embedding, by more than a margin."""

    in_teacher_space = True

    def __init__(
        self,
        student: nn.Module,
        *,
        teacher_dim: int,
        student_dim: int | None = None,
        precision: options.Precision = "float32",
        head: options.HeadName = "linear",
        temperature: options.Temperature = 0.5,
        margin: Annotated[float, result_option("Distance below which nothing is pulled", ge=0)] = 0.25,
    ) -> None:
        super().__init__(student, teacher_dim, student_dim, head, precision)
        self.margin, self.temperature = margin, temperature

    def compute_loss(self, features, batch):
        distances = (self.projection(features) - batch.teacher_embeddings).norm(dim=1)
        return (distances - self.margin).clamp(min=0).mean() / self.temperature, {"distance": distances.detach().mean()}
'''

MAIN = """
import sys
from compress_ssl.pipeline.distill.objectives import OBJECTIVES
OBJECTIVES["toy"] = "toy:Toy"  # the one line
from compress_ssl.cli.main import main
for words in (line.split() for line in sys.stdin):
    try:
        main(words, prog_name="compress-ssl")
    except SystemExit as ended:
        print("\\ncode", ended.code)
"""


def test_a_new_objective_is_its_file_and_one_line(store: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    tiny = f"{store} {data} {tmp_path}/NAME --student conv4-16 --epochs 2 --batch-size 8 --threads 1 --device cpu"
    calls = [
        "distill --help",
        f"distill {tiny.replace('NAME', 'own')} --objective toy",
        f"distill {tiny.replace('NAME', 'given')} --objective toy --margin 0.5 --temperature 2 --head none",
        f"distill {tiny.replace('NAME', 'mlp')} --objective toy --margin 0.5 --temperature 2 --head mlp-2",
        f"distill {tiny.replace('NAME', 'refused')} --objective toy --bank-size 9",
        f"distill {tiny.replace('NAME', 'refused')} --objective reg --margin 0.5",
        f"distill {tiny.replace('NAME', 'refused')} --objective toy --margin -1",
    ]
    answer = subprocess.run(
        [sys.executable, "-c", MAIN], input="\n".join(calls), cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "COLUMNS": "200"},
    )  # fmt: skip
    shown = " ".join(answer.stdout.split())
    assert "--margin FLOAT" in shown
    assert "Distance below which nothing is pulled (toy). [default: 0.25]" in shown
    assert "toy: 0.5). [default: 0.04]" in shown
    assert "toy: linear)" in shown
    assert [line for line in answer.stdout.splitlines() if line.startswith("code")] == [
        *("code 0", "code 0", "code 2", "code 0"), *["code 2"] * 3
    ]  # fmt: skip
    assert (
        "Head 'none' keeps the student's 16 features, which Toy cannot compare with the teacher's 32" in answer.stderr
    )
    assert "--bank-size does nothing for toy; leave it out, or use compress-2q, compress-1q, seed" in answer.stderr
    assert "--margin does nothing for reg; leave it out, or use toy." in answer.stderr
    assert "--margin: input should be greater than or equal to 0, got -1.0" in answer.stderr
    for name, margin, temperature, head in (("own", 0.25, 0.5, None), ("mlp", 0.5, 2, "mlp-2")):
        record = json.loads((tmp_path / name / "settings.json").read_text())
        assert (record["margin"], record["temperature"], record["head"]) == (margin, temperature, head)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if "distance" in line:
                assert line["loss"] * temperature == pytest.approx(line["distance"] - margin, abs=0.05)
        modules = torch.load(tmp_path / name / "checkpoint.pt")["modules"]
        assert len([key for key in modules if key.startswith("objective.projection")]) == (2 if head is None else 4)
