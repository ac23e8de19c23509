"""The recipes of the paper's tables against the numbers of the published code, copied from it by hand."""

from typing import Any

import pytest

from compress_ssl.pipeline.recipe.file import read_recipe, recipe_names
from compress_ssl.pipeline.recipe.steps import Step, plan_steps
from compress_ssl.pipeline.recipe.sweep.expand import expand

MOCO = "moco-v2-resnet50:moco_v2_800ep_pretrain.pth.tar"
SWAV = "swav-resnet50:swav_800ep_pretrain.pth.tar"
SIMCLR = "simclr-resnet50-w4:resnet50-4x.pth"

SGD = {"batch_size": 256, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "precision": "float32"}
PLAIN = {"nesterov": False, "no_decay_on": "none", "warmup_epochs": 0.0, "clip_norm": None, "accumulation": 1}
CROP = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter": 0.0, "grey": 0.0, "blur": 0.0}

TRAIN_STUDENT = SGD | PLAIN | {
    "epochs": 130, "learning_rate": 0.01, "schedule": "step", "milestones": (90, 120), "gamma": 0.2, "keep_last": True,
    "student_size": None, "anchors": "queue", "prefill": False, "mask_own": False, "centre": False,
}  # fmt: skip
"""UMBCvision/CompRess, train_student.py: the options' defaults, the order of the loader, the SGD of torch."""

BANK = {"bank_size": 128_000, "temperature": 0.04, "teacher_temperature": None, "bank_precision": "float32"}
METHODS: dict[str, dict[str, Any]] = {
    "2q": TRAIN_STUDENT | BANK | {"objective": "compress-2q", "key_momentum": 0.999, "head_or_default": "none"},
    "1q": TRAIN_STUDENT | BANK | {"objective": "compress-1q", "head_or_default": "linear"},
    "reg": TRAIN_STUDENT | {"objective": "reg", "head_or_default": "linear"},
    "reg-bn": TRAIN_STUDENT | {"objective": "reg-bn", "head_or_default": "linear"},
    # HobbitLong/RepDistiller, train_student.py: nce_k, nce_t, nce_m.
    "crd": TRAIN_STUDENT
    | {"objective": "crd", "negatives": 16_384, "temperature": 0.07, "memory_momentum": 0.5, "negative_queue": None},
    # UMBCvision/CompRess, train_kmeans.py and run_cc.sh at f6d5a1ff4064; faiss.Clustering's own seed.
    "cc": TRAIN_STUDENT
    | {
        "objective": "cc", "clusters": 16_000, "epochs": 100, "learning_rate": 0.1, "schedule": "cosine-per-epoch",
        "nesterov": True, "no_decay_on": "norms", "seed": 1234,
    },
}  # fmt: skip

LIVE: dict[str, Any] = {"views": 130, "student_view": "replay", "policy": CROP}  # a new view in every epoch
CACHED: dict[str, Any] = {"views": 0, "student_view": "fresh", "policy": None}

PAIRS: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "paper-moco-alexnet": (MOCO, "alexnet", LIVE, ["cc", "crd", "reg", "reg-bn", "2q", "1q"]),
    "paper-moco-resnet18": (MOCO, "resnet18", LIVE, ["cc", "crd", "reg", "reg-bn", "2q", "1q"]),
    "paper-moco-mobilenet": (MOCO, "mobilenet_v2", LIVE, ["cc", "crd", "reg", "reg-bn", "2q", "1q"]),
    "paper-swav-resnet18": (SWAV, "resnet18", LIVE, ["cc", "crd", "reg-bn", "2q", "1q"]),
    "paper-r50x4-resnet50": (SIMCLR, "resnet50", CACHED, ["cc", "2q", "1q"]),
    "paper-r50x4-alexnet": (SIMCLR, "alexnet", CACHED, ["2q", "1q"]),
}
"""Teacher, student, views, and the methods with a row in the paper's tables."""

SUPERVISED = {
    "alexnet": "torchvision/alexnet",
    "resnet18": "torchvision/resnet18",
    "mobilenet_v2": "mobilenet_v2:mobilenet_v2-b0353104.pth",
    "resnet50": "resnet50:resnet50-0676ba61.pth",
}
"""torchvision's IMAGENET1K_V1 by student: of AlexNet and ResNet-18 there are no others."""


def plan(name: str) -> dict[str, Step]:
    recipe, _ = expand(read_recipe(name))
    return {step.name: step for step in plan_steps(recipe)}


def agrees(step: Step, expected: dict[str, Any]) -> None:
    found = {name: getattr(step.settings, name) for name in expected}
    assert found == expected, step.name


def random_views(steps: dict[str, Step]) -> tuple[int, dict[str, Any]]:
    settings: Any = steps["embed"].settings
    (train,) = [split for split in settings.split if split.name == "train"]
    policy = settings.policy.model_dump()
    return settings.views if train.views is None else train.views, {name: policy[name] for name in CROP}


@pytest.mark.parametrize("name", PAIRS)
def test_recipe_of_a_pair_has_the_published_numbers_of_every_method(name: str) -> None:
    teacher, student, views, methods = PAIRS[name]
    steps = plan(name)
    agrees(steps["embed"], {"teacher": teacher, "precision": "float32", "size": None, "resize": None})
    count, policy = random_views(steps)
    assert count == views["views"]
    if views["policy"] is not None:
        assert policy == views["policy"]
    short = student.removesuffix("_v2")
    assert [step.name for step in steps.values() if step.stage == "distill"] == [f"{short}-{each}" for each in methods]
    for method in methods:
        expected = {**METHODS[method], "student": student, "student_view": views["student_view"], "views": None}
        if (name, method) == ("paper-r50x4-resnet50", "2q"):
            expected["head_or_default"] = "linear"  # train_student.py: resnet50(fc_dim=8192)
        agrees(steps[f"{short}-{method}"], expected)


@pytest.mark.parametrize("name", PAIRS)
def test_teacher_supervised_network_and_students_are_evaluated_as_published(name: str) -> None:
    teacher, student, _, methods = PAIRS[name]
    steps = [step for step in plan(name).values() if step.stage == "evaluate"]
    scored = {getattr(step.settings, "model", "") for step in steps}
    assert teacher in scored
    assert len(scored) == 2 + len(methods)
    assert SUPERVISED[student] in scored
    low_shot = {"low-shot"} if name == "paper-r50x4-resnet50" else set()
    assert {step.name.split()[0] for step in steps} == {"knn", "linear", "cluster"} | low_shot
    for step in steps:
        agrees(step, {"size": 224, "resize": 256, "train_split": "train", "test_split": "val", "precision": "float32"})
        match step.name.split()[0]:
            case "linear":  # eval_linear.py
                agrees(step, {
                    "features": "live", "epochs": 40, "classifier_batch_size": 256, "learning_rate": 0.01,
                    "momentum": 0.9, "weight_decay": 1e-4, "drops": (15, 30), "gamma": 0.1, "lr_grid": (),
                })  # fmt: skip
            case "cluster":  # eval_cluster_alignment.py
                agrees(step, {"clusters": None, "iterations": 20, "restarts": 1, "seeds": (1234, 1, 2)})
            case "low-shot":
                agrees(step, {"percent": (1.0, 10.0)})


def test_ablations_vary_one_number_of_compress_2q() -> None:
    steps = plan("paper-ablations")
    assert steps["embed"].settings == plan("paper-moco-alexnet")["embed"].settings
    students = [step for step in steps.values() if step.stage == "distill"]
    varied = []
    for step in students:
        settings: Any = step.settings
        varied.append((settings.temperature, settings.bank_size))
        of_figure = {"temperature": settings.temperature, "bank_size": settings.bank_size, "student": "alexnet"}
        agrees(step, METHODS["2q"] | of_figure)
    assert varied == [
        *((temperature, 128_000) for temperature in (0.02, 0.07, 0.1, 1.0)),
        *((0.04, size) for size in (256, 512, 1024, 4096, 16_384, 65_536, 128_000)),
    ]


def test_simreg_and_seed_have_their_own_published_numbers() -> None:
    steps = plan("paper-simreg")  # UCDvision/simreg, run.sh, main.py, dataloader.py (--weak_weak), tools.py
    assert random_views(steps) == (130, CROP | {"scale": (0.2, 1.0)})
    for name, student in (("resnet18", "resnet18"), ("mobilenet", "mobilenet_v2")):
        agrees(steps[name], SGD | PLAIN | {
            "objective": "simreg", "student": student, "epochs": 130, "learning_rate": 0.05,
            "schedule": "cosine-per-epoch", "keep_last": False, "head_or_default": "mlp",
        })  # fmt: skip
    steps = plan("paper-seed")  # jacobswan1/SEED, tools/opts.py, main.py; the teacher's temperature is the paper's
    jitter = {"scale": (0.2, 1.0), "jitter": 0.8, "grey": 0.2, "blur": 0.5}
    assert random_views(steps) == (200, CROP | jitter)
    agrees(steps["resnet18"], SGD | PLAIN | {
        "objective": "seed", "student": "resnet18", "epochs": 200, "learning_rate": 0.03, "precision": "float16",
        "schedule": "cosine-per-epoch", "keep_last": False, "bank_size": 65_536, "temperature": 0.2,
        "teacher_temperature": 0.01, "head_or_default": "mlp-2",
    })  # fmt: skip


def test_no_recipe_of_the_paper_is_left_out() -> None:
    assert {name for name in recipe_names() if name.startswith("paper-")} == {
        *PAIRS, "paper-ablations", "paper-simreg", "paper-seed",
    }  # fmt: skip
