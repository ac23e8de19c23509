"""Several teachers at once: the weighted mean of their losses, rows matched by path, the same views or a refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.multi_teacher import MultiTeacher
from compress_ssl.pipeline.distill.objectives.objective import Batch, TeacherEmbeddings
from compress_ssl.pipeline.distill.run import distill, distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.task import build_objective
from compress_ssl.pipeline.export.card import model_card
from compress_ssl.pipeline.export.origin import read_origin
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from compress_ssl.storage import open_store

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]
Embed = Callable[..., Path]

KINDS: dict[str, dict[str, Any]] = {
    "2q": {"objective": "compress-2q", "mask_own": True, "centre": True, "prefill": True, "head": "linear"},
    "1q": {"objective": "compress-1q", "learning_rate": 0.02},
    "1q-k-means": {"objective": "compress-1q", "anchors": "k-means", "bank_size": 7},
    "reg": {"objective": "reg"},
    "seed": {"objective": "seed"},
    "crd": {"objective": "crd", "negatives": 40},
    "cc": {"objective": "cc", "clusters": 4},
    "reg-bn": {"objective": "reg-bn"},
    "simreg": {"objective": "simreg"},
    "unic": {"objective": "unic", "teacher_dropping": 0.0},
    "koleo": {"objective": "koleo"},
    "bingo": {"objective": "bingo", "neighbours": 3},
    "retro": {"objective": "retro"},
    "lightly": {"objective": "lightly"},
}


def differ(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, theirs[name]) for name, value in ours.items())


def test_same_store_twice_ends_with_the_weights_of_one_bit_for_bit(
    student: Students, trained: Trained, store: Path, assert_same: Any, metrics: Any
) -> None:
    expected = trained("one")
    assert_same(trained("two", also_store=(store,), store_weights=(3, 3)), expected)
    assert_same(trained("two-key", also_store=(store,), export="key"), trained("one-key", export="key"))
    one, two = (metrics(student(name).run) for name in ("one", "two"))
    for mine, other in zip(two, one, strict=True):
        assert mine["loss"] == mine["loss_1"] == mine["loss_2"] == other["loss"]
        assert mine["teacher_perplexity_1"] == mine["teacher_perplexity_2"] == other["teacher_perplexity"]


def test_another_teacher_and_its_weight_change_what_is_learned(trained: Trained, other: Path) -> None:
    made = [trained(f"{number}", **given) for number, given in enumerate(
        ({}, {"also_store": (other,)}, {"also_store": (other,), "store_weights": (3, 1)}, {"store": other})
    )]  # fmt: skip
    assert all(differ(ours, theirs) for number, ours in enumerate(made) for theirs in made[:number])


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_the_weighted_mean_of_those_of_each_teacher_alone(
    student: Students, other: Path, kind: str
) -> None:
    settings = student(**KINDS[kind], also_store=(other,))
    dims, weights = (24, 40, 10), (0.2, 0.3, 0.5)
    generator = torch.Generator().manual_seed(1)
    stored = [torch.nn.functional.normalize(torch.randn(100, dim, generator=generator), dim=1) for dim in dims]
    images, rows = torch.randn(12, 3, 16, 16, generator=generator), torch.arange(40, 52)

    def made(network: torch.nn.Module, feature_dim: int, number: int) -> tuple[Any, Batch]:
        torch.manual_seed(number)
        objective: Any = build_objective(
            settings,
            settings.objective_options,
            network,
            student_dim=feature_dim,
            teacher_dim=dims[number],
            images=100,
            projection_head=torch.nn.Linear(dims[number], 8),
        )
        objective.fit_teacher(TeacherEmbeddings(stored[number], torch.arange(100)))
        return objective.train(), Batch(images, stored[number][rows], rows)

    def built() -> tuple[torch.nn.Module, int]:
        network, feature_dim = build_backbone("conv4-16", 0)
        return network.train(), feature_dim

    expected, gradients, alone = 0.0, {}, []
    for number, weight in enumerate(weights):
        network, feature_dim = built()
        objective, batch = made(network, feature_dim, number)
        torch.manual_seed(9)
        loss, _ = objective(network, batch)
        loss.backward()
        expected += weight * loss.item()
        alone.append(objective)
        for name, parameter in network.named_parameters():
            gradients[name] = gradients.get(name, 0) + weight * parameter.grad.double()

    network, feature_dim = built()
    objectives, batches = zip(*(made(network, feature_dim, number) for number in range(3)), strict=True)
    several = MultiTeacher(objectives, weights)
    seen: list[int] = []
    network.register_forward_hook(lambda *_: seen.append(1))
    torch.manual_seed(9)
    loss, logged = several(network, *batches)
    loss.backward()
    assert len(seen) == 1
    if kind != "crd":  # draws its negatives, those of the second teacher after those of the first
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad.double(), gradients[name], rtol=1e-3, atol=1e-5)
        for weight, one, each in zip(weights, alone, objectives, strict=True):
            for mine, theirs in zip(each.parameters(), one.parameters(), strict=True):
                if mine.grad is not None:
                    torch.testing.assert_close(mine.grad, weight * theirs.grad, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(
        sum(weight * logged[f"loss_{number}"].item() for number, weight in enumerate(weights, 1)), rel=1e-5
    )


@pytest.mark.slow
def test_killed_runs_go_on_bit_for_bit(
    student: Students, trained: Trained, other: Path, killed_after: Any, assert_same: Any, metrics: Any
) -> None:
    given = {"also_store": (other,), "store_weights": (1, 3), "accumulation": 2}
    students = [student(kind, **options, **given) for kind, options in KINDS.items()]
    for steps in (2, 3):
        killed_after(steps, students)
        students = [each.model_copy(update={"resume": True}) for each in students]
    models = distill_together(students, Silent(), live_evaluation)
    for (kind, options), settings, model in zip(KINDS.items(), students, models, strict=True):
        alone = settings.run.with_name(f"alone-{kind}")
        assert_same(load_file(model), trained(alone.name, **options, **given))
        assert metrics(settings.run) == metrics(alone), kind
        mine, whole = (torch.load(run / "checkpoint.pt") for run in (settings.run, alone))
        assert_same(mine["modules"], whole["modules"])


def test_run_does_not_go_on_with_other_teachers_or_weights(
    student: Students, other: Path, embedded: Embed, killed_after: Any, tmp_path: Path
) -> None:
    killed_after(2, [student(also_store=(other,), store_weights=(1, 3))])
    again = {"also_store": (other,), "store_weights": (1, 3), "resume": True}
    third = embedded(teacher="random/conv4-64")
    for change, named in (
        ({"store_weights": (1, 2)}, r"store_weights = \[1\.0, 3\.0\], now it is \[1\.0, 2\.0\]"),
        ({"also_store": (third,)}, r"inputs\.further_teachers\.0\.teacher\.\w+ = "),
        ({"also_store": (), "store_weights": ()}, r"was started with "),
    ):
        with pytest.raises(InputError, match=named):
            distill(student(**{**again, **change}), Silent())
    moved = shutil.copytree(other, tmp_path / "moved.zarr")
    assert distill(student(**{**again, "also_store": (moved,)}), Silent()).is_file()


def test_students_of_one_and_of_several_teachers_share_a_pass_and_end_as_each_alone(
    student: Students, trained: Trained, store: Path, other: Path, assert_same: Any, metrics: Any
) -> None:
    third = {"also_store": (other, store), "store_weights": (1, 5, 1), "objective": "cc", "clusters": 3}
    kinds = {
        "plain": {},
        "two": {"also_store": (other,), "prefill": True},
        "three": third,
        "small": {"student_size": 12},
    }
    models = distill_together([student(name, **kind) for name, kind in kinds.items()], Silent(), live_evaluation)
    for (name, kind), model in zip(kinds.items(), models, strict=True):
        assert_same(load_file(model), trained(f"alone-{name}", **kind))
        assert metrics(student(name).run) == metrics(student(f"alone-{name}").run)


def test_mapped_memory_makes_no_difference_and_is_let_go_of(
    trained: Trained, other: Path, assert_same: Any, tmp_path: Path
) -> None:
    given = {"also_store": (other,), "prefill": True}
    expected = trained("device", teacher_memory="device", **given)
    assert_same(trained("mapped", teacher_memory="mapped", scratch=tmp_path / "scratch", **given), expected)
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("free_views", "memory"), [(4.01, "device"), (3.99, "mapped")])
def test_auto_asks_for_room_for_the_views_of_all_teachers(
    trained: Trained, other: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, free_views: float, memory: str
) -> None:
    from compress_ssl.pipeline.distill import teacher_views

    both = 2 * 29 * (open_store(other)["train"].feature_dim + 32)
    monkeypatch.setattr(teacher_views, "available_memory", lambda: int(free_views * both))
    caplog.set_level("INFO")
    trained(also_store=(other,))
    name = {"device": "the memory of the training device", "mapped": "a memory map"}[memory]
    assert [name in text for text in caplog.messages if "two at a time" in text] == [True, True]


def test_weights_are_positive_and_one_for_each_store(student: Students, other: Path) -> None:
    for weights, sentence in (
        ((1.0,), "There are 1 --store-weights and 2 stores; give one for STORE and one for each --also-store"),
        ((1.0, 2.0, 3.0), "There are 3 --store-weights and 2 stores"),
        ((1.0, 0.0), "greater than 0"),
        ((1.0, float("inf")), "finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            student(also_store=(other,), store_weights=weights)


def test_weights_add_up_to_one(student: Students, other: Path) -> None:
    assert student().weights == (1.0,)
    assert student(also_store=(other, other)).weights == pytest.approx((1 / 3,) * 3)
    assert student(also_store=(other,), store_weights=(3, 1)).weights == (0.75, 0.25)


def test_run_names_all_teachers_and_so_does_its_card(trained: Trained, student: Students, other: Path) -> None:
    trained(also_store=(other,), store_weights=(3, 1))
    record = json.loads((student().run / "settings.json").read_text())
    assert record["inputs"]["teacher"]["architecture"] == "conv4-32"
    (further,) = record["inputs"]["further_teachers"]
    assert further["teacher"]["architecture"] == "conv4-16"
    assert further["data_set"]["fingerprint"]
    assert record["store_weights"] == [3, 1]
    network = load_network(str(student().run))
    origin = read_origin(str(student().run), "")
    card = model_card(network, network.identity(), origin, None, {})
    assert "the teachers `conv4-32, untrained` (a conv4-32) and `conv4-16, untrained` (a conv4-16) by" in card
    assert card.count("## Teacher\n") == 2
    assert "| store weights | [3.0, 1.0] |" in card
