"""A recipe compares its networks on the same images, or refuses to."""

import shutil
from pathlib import Path

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.results_table import read_result, results_table
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.pipeline.recipe.steps import plan_steps
from tests.pipeline.recipe.tiny_recipe import RECIPE, run


def test_students_are_scored_on_the_images_of_the_store(work: Path) -> None:
    shutil.copytree(work / "images" / "train", work / "images" / "others")
    (work / "images" / "others" / "pear" / "7.png").unlink()
    limited = RECIPE.replace("views = 2", 'views = 2\nsplit = ["train=others", "val:0"]\nlimit = 3')
    run(work, limited.replace("batch_size = 8", "batch_size = 2"))
    results = sorted((work / "out" / "evaluation").glob("*/nearest-neighbour.json"))
    assert {path.parent.name for path in results} == {"embed", "small", "other"}
    assert {(images.train, images.test) for path in results for images in read_result(path).images.values()} == {(3, 3)}
    assert results_table(results).notes == ("Of 3 test images and 3 training images of images.",)


def planned(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return {step.name: step.settings for step in plan_steps(read_recipe(str(path)))}


@pytest.mark.parametrize("key", ["limit = 4", 'subset = "list.txt"'])
def test_teacher_is_not_compared_with_students_on_a_selection_of_their_own(tmp_path: Path, key: str) -> None:
    own = f"[evaluate]\n{key}"
    name = key.split(" ")[0]
    with pytest.raises(InputError, match=f"'{name}' in .* but the teacher is scored on all images of the store; write"):
        planned(tmp_path, RECIPE.replace("[evaluate]", own))
    planned(tmp_path, RECIPE.replace("[evaluate]", own).replace("[settings]", f"[settings]\n{key}"))
    students = planned(tmp_path, RECIPE.replace("[evaluate]", own).replace('"embed", "small"', '"small"'))
    assert getattr(students["knn small"], name) is not None


def test_untrained_network_sees_images_of_the_size_of_the_store(tmp_path: Path) -> None:
    text = RECIPE.replace("size = 16\nresize = 16\n", "").replace("views = 2", "views = 2\nsize = 24\nresize = 28")
    settings = planned(tmp_path, text.replace('"other"]', '"random/conv4-16"]'))
    sizes = {name: (getattr(each, "size", None), getattr(each, "resize", None)) for name, each in settings.items()}
    assert sizes["embed"] == sizes["knn random/conv4-16"] == (24, 28)
    assert sizes["knn small"] == (None, None)  # a student has its own, which its run records
