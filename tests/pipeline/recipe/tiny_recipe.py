"""A recipe of seconds, and what its tests ask of a folder in which it has run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.pipeline.recipe.run import plan_run, run_recipe
from compress_ssl.pipeline.recipe.steps import plan_steps, select_steps

if TYPE_CHECKING:
    from compress_ssl.pipeline.recipe.up_to_date import Decision

RECIPE = """
folder = "out"
data = "images"
[settings]
size = 16
resize = 16
threads = 1
epochs = 1
[[pretrain]]
name = "big"
arch = "conv4-16"
batch_size = 8
[embed]
teacher = "big"
views = 2
[distill]
batch_size = 8
bank_size = 16
[[student]]
name = "small"
student = "conv4-16"
[[student]]
name = "other"
student = "conv4-32"
[evaluate]
models = ["embed", "small", "other"]
"""

RESEEDED = RECIPE.replace("views = 2", "views = 2\nseed = 3")

STEPS = ["big", "embed", "small", "other", "knn embed", "knn small", "knn other"]


def write_images(root: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in ("apple", "pear"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(generator.integers(0, 255, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")


def run(
    folder: Path,
    text: str = RECIPE,
    *,
    first: str | None = None,
    only: tuple[str, ...] = (),
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, tuple[str, str]]:
    """Run a recipe in a folder; what was done about each step, and why."""
    path = folder / "recipe.toml"
    path.write_text(text)
    recipe = read_recipe(str(path), folder=folder / "out", data=folder / "images")
    decisions: list[Decision] = []
    steps = select_steps(plan_steps(recipe), first=first, only=only)
    plan = plan_run(recipe, steps, force=force)
    if dry_run:
        decisions = list(plan.decisions)
    else:
        run_recipe(plan, Silent(), decisions.append)
    return {decision.step.name: (decision.action, decision.why) for decision in decisions}


def actions(decisions: dict[str, tuple[str, str]]) -> dict[str, str]:
    """What is not skipped."""
    return {name: action for name, (action, _) in decisions.items() if action != "skip"}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def record_of(work: Path, step: str) -> dict[str, object]:
    record: dict[str, object] = json.loads((work / "out" / "steps" / f"{step}.json").read_text())
    return record


def mark_interrupted(work: Path, step: str) -> None:
    path = work / "out" / "steps" / f"{step}.json"
    path.write_text(json.dumps(record_of(work, step) | {"finished": False}))
