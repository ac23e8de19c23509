"""A recipe's steps run when their settings or inputs have changed, and not otherwise."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.pipeline.recipe.run import evaluation_results
from compress_ssl.pipeline.recipe.steps import plan_steps, select_steps
from compress_ssl.pipeline.recipe.up_to_date import image_fingerprints
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.tools.verify import verify_store
from tests.pipeline.recipe.tiny_recipe import (
    RECIPE,
    RESEEDED,
    STEPS,
    actions,
    assert_same_weights,
    mark_interrupted,
    run,
    stamps,
    write_images,
)


def test_second_run_skips_every_step_and_writes_nothing(work: Path) -> None:
    before = stamps(work / "out")
    assert run(work) == dict.fromkeys(STEPS, ("skip", "up to date"))
    assert stamps(work / "out") == before


def test_results_come_in_the_recipes_order(work: Path) -> None:
    recipe = read_recipe(str(work / "recipe.toml"), folder=work / "out", data=work / "images")
    names = [json.loads(path.read_text())["network"]["name"] for path in evaluation_results(recipe)[0]]
    assert names == ["big", "small", "other"]


def test_changed_setting_of_a_student_runs_it_and_its_evaluation_only(work: Path) -> None:
    old = (work / "out" / "small" / "model.safetensors").read_bytes()
    decisions = run(work, RECIPE.replace('name = "small"', 'name = "small"\ntemperature = 0.1'))
    assert actions(decisions) == {"small": "run", "knn small": "run"}
    assert decisions["small"][1] == "temperature was 0.04, is 0.1"
    assert decisions["knn small"][1] == "'small' has changed"
    assert (work / "out" / "small.previous" / "model.safetensors").read_bytes() == old
    assert (work / "out" / "small" / "model.safetensors").read_bytes() != old
    assert (work / "out" / "evaluation" / "small" / "nearest-neighbour.json.previous").is_file()


def test_what_has_the_name_of_a_previous_output_and_is_none_stays(work: Path) -> None:
    for name in ("small.previous", "evaluation/small/nearest-neighbour.json.previous"):
        users = work / "out" / name / "thesis.tex" if name.startswith("small") else work / "out" / name
        users.parent.mkdir(exist_ok=True)
        users.write_text("mine")
        with pytest.raises(InputError, match=f"'.*{name}', where '.*' is to be kept, is something else; move it away"):
            run(work, RECIPE.replace('name = "small"', 'name = "small"\ntemperature = 0.1'))
        assert users.read_text() == "mine"
        users.unlink()
        if name == "small.previous":
            users.parent.rmdir()


def test_result_of_a_network_that_was_made_anew_is_not_shown(work: Path) -> None:
    text = RECIPE.replace('name = "small"', 'name = "small"\ntemperature = 0.1')
    run(work, text, only=("small",))
    recipe = read_recipe(str(work / "recipe.toml"), folder=work / "out", data=work / "images")
    results, outdated = evaluation_results(recipe)
    assert [json.loads(path.read_text())["network"]["name"] for path in results] == ["big", "other"]
    assert outdated == ["knn small"]


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"settings": 3}', '{"finished": "perhaps"}'])
def test_damaged_record_of_a_step_is_named_and_nothing_is_run(work: Path, content: str) -> None:
    path = work / "out" / "steps" / "small.json"
    path.write_text(content)
    before = stamps(work / "out")
    with pytest.raises(StoreError, match=r"'.*steps/small\.json' .*; restore it, or delete it and move the step's"):
        run(work)
    assert stamps(work / "out") == before


def test_setting_that_says_only_how_to_run_puts_nothing_out_of_date(work: Path) -> None:
    changed = RECIPE.replace("threads = 1", 'threads = 2\ndevice = "cpu"\ncheckpoint_minutes = 1')
    assert actions(run(work, changed)) == {}


def test_setting_that_came_with_a_new_version_is_no_change_at_its_default(work: Path) -> None:
    path = work / "out" / "steps" / "small.json"
    record = json.loads(path.read_text())
    del record["settings"]["key_momentum"], record["settings"]["bank_size"]
    path.write_text(json.dumps(record))
    decisions = run(work, dry_run=True)
    assert decisions["small"] == ("run", "bank_size was None, is 16")
    default = RECIPE.replace("bank_size = 16\n", "")
    assert run(work, default, dry_run=True, only=("small",)) == {"small": ("skip", "up to date")}


def test_default_that_has_changed_since_is_no_change(work: Path) -> None:
    for name in ("big", "small"):
        path = work / "out" / "steps" / f"{name}.json"
        record = json.loads(path.read_text())
        assert record["settings"]["precision"] == "auto"
        record["settings"]["precision"] = "float32"
        path.write_text(json.dumps(record))
    assert actions(run(work, dry_run=True)) == {}
    explicit = RECIPE.replace('name = "small"', 'name = "small"\nprecision = "float32"')
    assert run(work, explicit, dry_run=True)["small"] == ("skip", "up to date")
    half = RECIPE.replace('name = "small"', 'name = "small"\nprecision = "bfloat16"')
    assert run(work, half, dry_run=True)["small"] == ("run", "precision was 'float32', is 'bfloat16'")


def test_changed_embedding_runs_all_that_comes_after(work: Path) -> None:
    decisions = run(work, RESEEDED)
    assert actions(decisions) == dict.fromkeys(STEPS[1:], "run")
    assert decisions["embed"][1] == "seed was 0, is 3"
    assert decisions["small"][1] == "'embed' has changed"
    assert open_store(work / "out" / "embeddings.zarr")["train"].views[1]["seed"] == 3
    assert open_store(work / "out" / "embeddings.zarr.previous")["train"].views[1]["seed"] == 0


def test_dry_run_says_the_same_and_writes_nothing(work: Path) -> None:
    before = stamps(work / "out")
    decisions = run(work, RESEEDED, dry_run=True)
    assert actions(decisions) == dict.fromkeys(STEPS[1:], "run")
    assert decisions["small"][1] == "'embed' will be run"
    assert decisions["knn small"][1] == "'small' will be run"
    assert stamps(work / "out") == before


def test_dry_run_before_anything_was_run_makes_no_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    assert actions(run(tmp_path, dry_run=True)) == dict.fromkeys(STEPS, "run")
    assert not (tmp_path / "out").exists()


def test_upstream_made_anew_with_the_same_content_leaves_what_comes_after_alone(work: Path) -> None:
    assert run(work, only=("embed",), force=True) == {"embed": ("run", "forced")}
    assert actions(run(work)) == {}


def test_upstream_changed_behind_the_recipes_back_is_noticed(work: Path) -> None:
    shutil.copy(work / "out" / "other" / "model.safetensors", work / "out" / "small" / "model.safetensors")
    decisions = run(work)
    assert actions(decisions) == {"knn small": "run"}
    assert decisions["knn small"][1] == "'small' has changed"


def test_changed_store_of_a_further_teacher_is_noticed_wherever_it_lies(work: Path) -> None:
    shutil.copytree(work / "out" / "embeddings.zarr", work / "further.zarr")
    also = f'batch_size = 8\nalso_store = ["{work}/further.zarr"]\nstore_weights = [2, 1]\n'
    text = RECIPE.replace("[distill]\nbatch_size = 8\n", f"[distill]\n{also}")
    decisions = run(work, text)
    assert decisions["small"] == ("run", "store_weights was [], is [2.0, 1.0]")
    assert actions(run(work, text)) == {}
    (work / "further.zarr").rename(work / "moved.zarr")
    assert actions(run(work, text.replace("further.zarr", "moved.zarr"))) == {}
    embed(EmbedSettings(data=work / "images", store=work / "further.zarr", teacher="random/conv4-32", size=16,
    resize=16,
                        views=2, threads=1, device="cpu"), Silent())  # fmt: skip
    decisions = run(work, text)
    assert decisions["small"] == ("run", "'also_store 1' has changed")
    weights = run(work, text.replace("[2, 1]", "[1, 2]"), only=("small",))
    assert weights["small"] == ("run", "store_weights was [2.0, 1.0], is [1.0, 2.0]")


@pytest.mark.parametrize("gone", ["small", "small/model.safetensors"])
def test_output_that_is_gone_is_made_again(work: Path, gone: str) -> None:
    path = work / "out" / gone
    model = load_file(work / "out" / "small" / "model.safetensors")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    decisions = run(work)
    assert decisions["small"] == ("run", "its output is gone")
    assert actions(decisions).keys() <= {"small", "knn small"}
    assert_same_weights(load_file(work / "out" / "small" / "model.safetensors"), model)


def test_store_that_is_gone_is_made_again(work: Path) -> None:
    shutil.rmtree(work / "out" / "embeddings.zarr")
    decisions = run(work)
    assert decisions["embed"] == ("run", "its output is gone")
    assert verify_store(open_store(work / "out" / "embeddings.zarr")).ok


def test_touched_image_runs_what_reads_its_folder(work: Path) -> None:
    os.utime(work / "images" / "val" / "pear" / "1.png")
    decisions = run(work)
    assert decisions["embed"] == ("run", "the images changed")
    # Pre-training reads train alone; the new store has the same content, so the students stay.
    assert actions(decisions) == {"embed": "run", "knn small": "run", "knn other": "run"}


def test_new_image_runs_every_step(work: Path) -> None:
    Image.new("RGB", (20, 20)).save(work / "images" / "train" / "pear" / "9.png")
    assert actions(run(work)) == dict.fromkeys(STEPS, "run")


def test_file_that_is_no_image_changes_nothing(work: Path) -> None:
    (work / "images" / "train" / "pear" / ".DS_Store").write_bytes(b"\0")
    (work / "images" / "README.txt").write_text("pears")
    assert actions(run(work)) == {}


def test_images_behind_a_link_are_seen(work: Path) -> None:
    (work / "images").rename(work / "elsewhere")
    (work / "images").mkdir()
    for split in ("train", "val"):
        (work / "images" / split).symlink_to(work / "elsewhere" / split)
    assert actions(run(work)) == {}
    os.utime(work / "elsewhere" / "train" / "pear" / "1.png")
    assert run(work)["big"] == ("run", "the images changed")


def test_changed_subset_list_runs_what_uses_it(work: Path) -> None:
    listed = work / "listed.txt"
    paths = [path.relative_to(work / "images").as_posix() for path in sorted((work / "images").rglob("*.png"))]
    listed.write_text("\n".join(paths))
    text = RECIPE.replace("views = 2", f'views = 2\nsubset = "{listed}"')
    assert run(work, text, only=("embed",))["embed"][0] == "run"
    assert run(work, text, only=("embed",))["embed"][0] == "skip"
    listed.write_text("\n".join(paths[1:]))
    assert run(work, text, only=("embed",))["embed"] == ("run", "'subset' has changed")


def test_changed_list_of_labelled_images_scores_again(work: Path) -> None:
    listed = work / "listed.txt"
    names = [f"{name}/{number}.png" for name in ("apple", "pear") for number in range(3)]
    listed.write_text("\n".join(names))
    table = f'[evaluate.low-shot]\nimage_list = ["{listed}"]\nviews = 1\n'
    text = RECIPE.replace('models = ["embed", "small", "other"]', f'models = ["embed"]\n{table}')
    (step,) = (name for name in run(work, text) if name.startswith("low-shot"))
    assert run(work, text)[step][0] == "skip"
    listed.write_text("\n".join(names[1:]))
    assert run(work, text)[step] == ("run", f"'{listed}' has changed")


def test_changed_annotation_scores_again_but_what_earlier_releases_scored_stays(work: Path, voc: Path) -> None:
    table = f'[evaluate.voc-classify]\ndata = "{voc}"\ncost = [1.0]\n'
    text = RECIPE.replace('models = ["embed", "small", "other"]', f'models = ["random/conv4-16"]\n{table}')
    name = "voc-classify random/conv4-16"
    assert run(work, text)[name] == ("run", "not run before")
    assert run(work, text)[name] == ("skip", "up to date")
    os.utime(voc / "Annotations" / "000003.xml")
    assert run(work, text, dry_run=True)[name] == ("run", "the images changed")
    record = work / "out" / "steps" / "voc-classify random-conv4-16.json"
    made = json.loads(record.read_text())
    del made["images"]["Annotations"]  # as earlier releases wrote it
    record.write_text(json.dumps(made))
    assert run(work, text, dry_run=True)[name] == ("skip", "up to date")


def test_from_and_only_leave_the_other_steps_alone(work: Path) -> None:
    assert list(run(work, first="distill")) == STEPS[2:]
    assert list(run(work, only=("small", "evaluate"))) == ["small", *STEPS[4:]]
    assert run(work, only=("small",), force=True) == {"small": ("run", "forced")}


def test_student_alone_after_a_change_of_the_embedding_is_run_again_later(work: Path) -> None:
    """It is trained from the store that is there; its record says so, whatever the recipe's [embed] says by then."""
    assert run(work, RESEEDED, only=("small",)) == {"small": ("skip", "up to date")}
    decisions = run(work, RESEEDED)
    assert actions(decisions) == dict.fromkeys(STEPS[1:], "run")
    assert decisions["small"][1] == "'embed' has changed"


def test_step_whose_input_was_never_made_says_what_to_run_first(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    with pytest.raises(InputError, match=r"Step 'small' needs 'embed', which is not finished; run that one first\."):
        run(tmp_path, only=("small",))
    assert not (tmp_path / "out").exists()


def test_step_whose_input_was_interrupted_says_what_to_run_first(work: Path) -> None:
    mark_interrupted(work, "embed")
    with pytest.raises(InputError, match=r"Step 'small' needs 'embed', which is not finished"):
        run(work, only=("small",))


def test_network_from_elsewhere_that_has_changed_is_evaluated_again(work: Path) -> None:
    shutil.copytree(work / "out" / "small", work / "theirs")
    text = RECIPE.replace('"embed", "small", "other"', f'"{work / "theirs"}"')
    name = f"knn {work / 'theirs'}"
    assert run(work, text)[name] == ("run", "not run before")
    assert run(work, text)[name] == ("skip", "up to date")
    shutil.copy(work / "out" / "big" / "model.safetensors", work / "theirs" / "model.safetensors")
    assert run(work, text)[name] == ("run", "'model' has changed")


def test_what_a_recipe_writes_into_its_own_data_set_is_not_taken_for_new_images(work: Path) -> None:
    inside = work / "images" / "train" / "out"
    recipe = read_recipe(str(work / "recipe.toml"), folder=inside, data=work / "images")
    (step,) = select_steps(plan_steps(recipe), only=("big",))
    before = image_fingerprints(recipe, [step])
    inside.mkdir()
    Image.new("RGB", (8, 8)).save(inside / "figure.png")
    assert image_fingerprints(recipe, [step]) == before
