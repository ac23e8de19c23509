"""A recipe's keys and names are checked, and its steps follow from it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.settings import EvaluateSettings
from compress_ssl.pipeline.pretrain.settings import PretrainSettings
from compress_ssl.pipeline.recipe.file import read_recipe, recipe_names
from compress_ssl.pipeline.recipe.steps import Step, plan_steps, select_steps
from compress_ssl.pipeline.recipe.sweep.expand import expand
from compress_ssl.storage.errors import StoreError

WHOLE = """
folder = "out"
data = "images"
[settings]
epochs = 3
seed = 5
size = 16
[[pretrain]]
name = "big"
arch = "conv4-64"
[embed]
teacher = "big"
views = 2
[distill]
batch_size = 8
[[student]]
name = "small"
student = "conv4-16"
[[student]]
name = "other"
student = "conv4-32"
epochs = 7
[evaluate]
models = ["embed", "small", "random/conv4-16"]
[evaluate.knn]
draws = 3
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe's text to a file and give its path."""

    def to_file(text: str) -> str:
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return str(path)

    return to_file


def steps_of(source: str) -> dict[str, Step]:
    return {step.name: step for step in plan_steps(read_recipe(source))}


def test_shipped_recipe_plans() -> None:
    for name in recipe_names():
        recipe, _ = expand(read_recipe(name))
        stages = [step.stage for step in plan_steps(recipe)]
        assert {"distill", "evaluate"} <= set(stages)
        assert "embed" in stages or "store" in recipe.distill
        order = ["pretrain", "embed", "distill", "evaluate"]
        assert stages == sorted(stages, key=order.index)


def test_recipes_of_the_readme_are_shipped() -> None:
    assert {"imagenet", "photographs", "quickstart"} <= set(recipe_names())


def test_steps_come_in_order_with_the_outputs_of_earlier_ones(write: Write) -> None:
    steps = steps_of(write(WHOLE))
    assert list(steps) == [*("big", "embed", "small", "other"), *("knn embed", "knn small", "knn random/conv4-16")]
    out = Path("out")
    teacher, embed, small = (steps[name].settings for name in ("big", "embed", "small"))
    assert isinstance(teacher, PretrainSettings)
    assert (teacher.data, teacher.run, teacher.arch) == (Path("images"), out / "big", "conv4-64")
    assert isinstance(embed, EmbedSettings)
    assert (embed.teacher, embed.store, embed.views) == ("out/big", out / "embeddings.zarr", 2)
    assert isinstance(small, DistillSettings)
    assert (small.store, small.run, small.student) == (out / "embeddings.zarr", out / "small", "conv4-16")
    models = [steps[name].settings for name in list(steps)[4:]]
    assert [model.model for model in models if isinstance(model, EvaluateSettings)] == [
        *("out/embeddings.zarr", "out/small", "random/conv4-16")
    ]
    assert [steps[name].needs for name in steps] == [(), ("big",), *2 * [("embed",)], ("embed",), ("small",), ()]


def test_shared_settings_reach_the_stages_that_have_them_and_the_nearest_wins(write: Write) -> None:
    steps = steps_of(write(WHOLE))
    dumped = {name: step.settings.model_dump() for name, step in steps.items()}
    assert [dumped[name].get("epochs") for name in ("big", "embed", "small", "other")] == [3, None, 3, 7]
    assert {settings["seed"] for settings in dumped.values()} == {5}
    assert [dumped[name].get("size") for name in ("big", "embed", "small")] == [16, 16, None]
    assert [dumped[name]["batch_size"] for name in ("big", "small", "other")] == [256, 8, 8]
    assert dumped["knn small"]["draws"] == 3
    linear = steps_of(write(f"{WHOLE}[evaluate.linear]"))["linear small"].settings.model_dump()
    assert (linear["epochs"], linear["seed"]) == (40, 5)  # the protocol's epochs, not those of the trainings
    assert {settings.get("index_folder") for name, settings in dumped.items() if name not in {"small", "other"}} == {
        Path("out/index")
    }


def test_students_share_the_options_that_their_objectives_have(write: Write) -> None:
    text = WHOLE.replace("batch_size = 8", "batch_size = 8\nbank_size = 99\nkey_momentum = 0.9\nclusters = 7")
    objectives = ("compress-2q", "compress-1q", "reg", "cc")
    text += "".join(
        f'[[student]]\nstudent = "conv4-16"\nname = "{each}"\nobjective = "{each}"\n' for each in objectives
    )
    steps = steps_of(write(text))
    given = {each: steps[each].settings.model_dump(exclude_unset=True) for each in objectives}
    shared = ("bank_size", "key_momentum", "clusters")
    found = {name: [settings[option] for option in shared if option in settings] for name, settings in given.items()}
    assert found == {"compress-2q": [99, 0.9], "compress-1q": [99], "reg": [], "cc": [7]}
    with pytest.raises(InputError, match=r"reg.*--temperature does nothing for reg"):
        steps_of(write(text.replace('name = "reg"', 'name = "reg"\ntemperature = 0.1')))


def test_folder_data_and_settings_can_be_given_instead(write: Write) -> None:
    recipe = read_recipe(write(WHOLE), folder=Path("elsewhere"), data=None, settings={"seed": 9})
    assert (recipe.folder, recipe.data) == (Path("elsewhere"), Path("images"))
    assert recipe.settings == {"epochs": 3, "seed": 9, "size": 16}


def test_student_of_the_folders_store_needs_no_step_that_the_recipe_does_not_have(write: Write) -> None:
    text = WHOLE.replace('[embed]\nteacher = "big"\nviews = 2\n[distill]', '[distill]\nstore = "out/embeddings.zarr"')
    steps = steps_of(write(text.replace('"embed", ', "")))
    assert steps["small"].needs == ()


def test_student_of_a_store_from_elsewhere_needs_no_step(write: Write) -> None:
    text = WHOLE.replace("batch_size = 8", 'batch_size = 8\nstore = "their.zarr"')
    small = steps_of(write(text))["small"]
    assert small.settings.model_dump()["store"] == Path("their.zarr")
    assert small.needs == ()


def test_student_of_several_stores_needs_the_step_that_makes_one_of_them(write: Write) -> None:
    mixed = 'batch_size = 8\nstore = "their.zarr"\nalso_store = ["s3://lab/b.zarr", "out/embeddings.zarr"]\n'
    mixed += "store_weights = [2, 1, 1]"
    small = steps_of(write(WHOLE.replace("batch_size = 8", mixed)))["small"]
    assert isinstance(small.settings, DistillSettings)
    assert [str(place) for place in small.settings.stores] == ["their.zarr", "s3://lab/b.zarr", "out/embeddings.zarr"]
    assert small.settings.weights == (0.5, 0.25, 0.25)
    assert small.needs == ("embed",)
    foreign = WHOLE.replace("batch_size = 8", 'batch_size = 8\nstore = "a.zarr"\nalso_store = ["b.zarr"]')
    assert steps_of(write(foreign))["small"].needs == ()


MISTAKES = [
    ("batch_size = 8", 'also_store = "their.zarr"', "In student 'small': also_store"),
    ("batch_size = 8", "also_store = 5", "In student 'small': also_store"),
    ("batch_size = 8", 'also_store = ["b.zarr"]\nstore_weights = [1]', "There are 1 --store-weights and 2 stores"),
    ('data = "images"', 'date = "images"', "There is no key 'date' in the recipe. Did you mean 'data'? Known: data,"),
    ("[embed]", "[embedd]", "There is no key 'embedd' in the recipe. Did you mean 'embed'?"),
    ("seed = 5", "sead = 5", "There is no key 'sead' in [settings]. Did you mean 'seed'?"),
    ("arch =", "arhc =", "There is no key 'arhc' in pretrain 'big'. Did you mean 'arch'?"),
    ("views = 2", "veiws = 2", "There is no key 'veiws' in [embed]. Did you mean 'views'?"),
    ("batch_size = 8", "batchsize = 8", "There is no key 'batchsize' in [distill]. Did you mean 'batch_size'?"),
    ("epochs = 7", "epoch = 7", "There is no key 'epoch' in student 'other'. Did you mean 'epochs'?"),
    ('name = "other"', 'nmae = "other"', "There is no key 'nmae' in student '?'. Did you mean 'name'?"),
    ("draws = 3", "drwas = 3", "There is no key 'drwas' in [evaluate.knn]. Did you mean 'draws'?"),
    ("[evaluate]", "[evaluate]\ndraws = 3", "'draws' in [evaluate] belongs to one evaluation; write it below"),
    ("[evaluate.knn]", "[evaluate.linaer]", "There is no key 'linaer' in [evaluate]. Did you mean 'linear'?"),
    ("[evaluate.knn]\ndraws = 3", "knn = 3", "'knn' in [evaluate] must be a table; write [evaluate.knn]"),
    ("[evaluate]", "[evaluate]\nmodles = []", "There is no key 'modles' in [evaluate]. Did you mean 'models'?"),
    ("views = 2", "policy = { flp = 0.0 }", "There is no key 'flp' in the policy of [embed]. Did you mean 'flip'?"),
    ("seed = 5", "policy = { flp = 0.0 }", "no key 'flp' in the policy of [settings]. Did you mean 'flip'?"),
    ("arch =", "policy.flp = 0\narch =", "no key 'flp' in the policy of pretrain 'big'. Did you mean 'flip'?"),
    ("seed = 5", "resume = true", "'resume' cannot be in [settings]: the recipe itself decides it; remove the line."),
    ("seed = 5", 'store = "x.zarr"', "'store' cannot be in [settings]: the recipe itself decides it"),
    ("views = 2", 'store = "x.zarr"', "'store' cannot be in [embed]: the recipe itself decides it"),
    ("epochs = 7", "overwrite = true", "'overwrite' cannot be in student 'other': the recipe itself decides it"),
    ("arch =", 'data = "x"\narch =', "'data' cannot be in pretrain 'big': the recipe itself decides it"),
    ("[evaluate]", '[evaluate]\nmodel = "x"', "'model' cannot be in [evaluate]: the recipe itself decides it"),
    ("views = 2", 'policy = "moco"', "Did you mean 'moco-v2'?"),
    ("views = 2", "policy = { flip = 2.0 }", "In [embed]: policy.flip: input should be less than or equal to 1"),
    ("views = 2", "views = 0", "In [embed]: views: input should be greater than or equal to 1, got 0."),
    ("epochs = 7", 'epochs = "many"', "In student 'other': epochs: input should be a valid integer"),
    ('teacher = "big"', 'teacher = "bug"', "There is no teacher 'bug'. Did you mean 'big'? Known: big, "),
    ('teacher = "big"', "teacher = 3", "In [embed]: teacher: input should be a valid string, got 3."),
    ('teacher = "big"', "", "In [embed]: teacher is missing; give it."),
    ('"embed", "small"', '"embed", "smal"', "There is no model 'smal'. Did you mean 'small'? Known: small, "),
    ('"embed", "small"', '"small", "small"', "two steps named 'knn small'; give each its own name."),
    ('["embed", "small", "random/conv4-16"]', '"embed"', "evaluate.models: input should be a list, got 'embed'."),
    ('name = "other"', 'name = "small"', "There are two steps named 'small'; give each its own name."),
    ('name = "other"', 'name = "big"', "There are two steps named 'big'; give each its own name."),
    ('name = "other"', "", "Each [[student]] of a recipe needs a name that can be a folder's; got None."),
    ('name = "other"', 'name = "../other"', "needs a name that can be a folder's; got '../other'."),
    ('name = "other"', 'name = "steps"', "cannot be named 'steps', which the recipe itself uses; rename it."),
    ('name = "other"', 'name = "small.previous"', "cannot be named 'small.previous', which the recipe itself"),
    ('name = "other"', 'name = "embed"', "cannot be named 'embed', which the recipe itself uses; rename it."),
    ('[embed]\nteacher = "big"\nviews = 2', "", "Student 'small' has no store; add an [embed] table, or store = PATH"),
    ("[[student]]\nname", "[student]\nname", "is not valid TOML"),
    ("epochs = 7", "epochs =", "is not valid TOML"),
    ('data = "images"', "", "data is missing; give it."),
]


def test_mistake_is_named_with_the_nearest_that_would_do(write: Write) -> None:
    for old, new, sentence in MISTAKES:
        assert old in WHOLE
        with pytest.raises((InputError, StoreError)) as error:
            steps_of(write(WHOLE.replace(old, new, 1)))
        assert sentence in str(error.value)


def test_table_that_no_step_comes_from_is_checked_too(write: Write) -> None:
    text = 'folder = "out"\ndata = "images"\n'
    with pytest.raises(InputError, match=r"There is no key 'temprature' in \[distill\]\. Did you mean 'temperature'"):
        steps_of(write(f"{text}[distill]\ntemprature = 1\n"))
    with pytest.raises(InputError, match=r"There is no key 'drawz' in \[evaluate.knn\]\. Did you mean 'draws'"):
        steps_of(write(f"{text}[evaluate.knn]\ndrawz = 1\n"))


def test_table_of_the_wrong_kind_is_named(write: Write) -> None:
    for text, sentence in [
        ("settings = 3", "settings: input should be a table, got 3."),
        ("student = { name = 'x' }", "student: input should be a list"),
        ("embed = 'x'", "embed: input should be a table, got 'x'."),
        ("evaluate = 3", "evaluate: input should be a table or"),
    ]:
        with pytest.raises(InputError) as error:
            steps_of(write(f'folder = "out"\ndata = "images"\n{text}\n'))
        assert sentence in str(error.value)


def test_two_evaluations_never_share_a_folder(write: Write) -> None:
    with pytest.raises(InputError, match=r"would both write 'out/evaluation/x-a-b/nearest-neighbour.json'; rename one"):
        steps_of(write(WHOLE.replace('"embed", "small"', '"x/a-b", "x-a/b"')))


def test_selection_by_step_or_stage_keeps_the_order(write: Write) -> None:
    steps = plan_steps(read_recipe(write(WHOLE)))

    def names(*, first: str | None = None, only: tuple[str, ...] = ()) -> list[str]:
        return [step.name for step in select_steps(steps, first=first, only=only)]

    assert names() == [step.name for step in steps]
    assert names(first="distill")[:2] == ["small", "other"]
    assert names(first="knn small") == ["knn small", "knn random/conv4-16"]
    assert names(only=("knn embed", "distill")) == ["small", "other", "knn embed"]
    assert names(first="other", only=("distill",)) == ["other"]


def test_selection_of_an_unknown_step_lists_steps_and_stages(write: Write) -> None:
    steps = plan_steps(read_recipe(write(WHOLE)))
    with pytest.raises(InputError, match=r"There is no step 'smal'. Did you mean 'small'\? Known: small, .*pretrain"):
        select_steps(steps, only=("smal",))
