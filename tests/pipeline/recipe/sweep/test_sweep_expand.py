"""A recipe with lists becomes one with a table for each combination."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.recipe.file import Recipe, read_recipe
from compress_ssl.pipeline.recipe.steps import plan_steps
from compress_ssl.pipeline.recipe.sweep.expand import expand

HEAD = """
folder = "out"
data = "images"
[settings]
size = 16
[embed]
teacher = "random/conv4-16"
"""


def recipe_of(text: str, head: str = HEAD) -> Recipe:
    return Recipe(**tomllib.loads(head + text))


def settings_of(text: str) -> dict[str, Any]:
    """Settings of each training that comes out, by its name."""
    recipe, _ = expand(recipe_of(text))
    return {step.name: step.settings for step in plan_steps(recipe) if step.stage in ("distill", "pretrain")}


def test_every_combination_of_shared_and_own_lists_is_one_student() -> None:
    students = settings_of("""
        [distill]
        student = "conv4-16"
        sweep = { seed = [0, 1], bank_size = [8, 16, 32] }
        [[student]]
        name = "a"
        [[student]]
        name = "b"
        sweep = { learning_rate = [0.1, 1e-3] }
    """)
    assert len(students) == 6 + 12
    for bank, seed in itertools.product((8, 16, 32), (0, 1)):
        one = students[f"a,bank_size={bank},seed={seed}"]
        assert (one.bank_size, one.seed, one.learning_rate) == (bank, seed, 0.01)
        for rate in (0.1, 0.001):
            other = students[f"b,bank_size={bank},learning_rate={rate},seed={seed}"]
            assert (other.bank_size, other.seed, other.learning_rate) == (bank, seed, rate)
            assert other.run == Path("out") / f"b,bank_size={bank},learning_rate={rate},seed={seed}"


def test_a_table_s_own_value_or_list_counts_before_a_shared_list() -> None:
    students = settings_of("""
        [distill]
        student = "conv4-16"
        sweep = { seed = [0, 1] }
        [[student]]
        name = "fixed"
        seed = 7
        [[student]]
        name = "listed"
        sweep = { seed = [8, 9] }
    """)
    assert {name: each.seed for name, each in students.items()} == {"fixed": 7, "listed,seed=8": 8, "listed,seed=9": 9}


def test_shared_lists_of_other_objectives_do_not_concern_a_student() -> None:
    students = settings_of("""
        [distill]
        student = "conv4-16"
        sweep = { temperature = [0.02, 0.04], seed = [0, 1] }
        [[student]]
        name = "reg"
        objective = "reg"
        [[student]]
        name = "both"
        sweep = { objective = ["compress-2q", "cc"] }
    """)
    assert set(students) == {
        *("reg,seed=0", "reg,seed=1"),
        *(f"both,temperature={t},objective=compress-2q,seed={s}" for t in (0.02, 0.04) for s in (0, 1)),
        *("both,objective=cc,seed=0", "both,objective=cc,seed=1"),
    }


def test_own_list_of_a_field_that_the_objective_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="--temperature does nothing for reg"):
        settings_of("""
            [[student]]
            name = "reg"
            student = "conv4-16"
            objective = "reg"
            sweep = { temperature = [0.02] }
        """)


def test_networks_without_a_teacher_and_stores_are_swept_too() -> None:
    trained = settings_of("""
        [[pretrain]]
        name = "scratch"
        arch = "conv4-16"
        sweep = { seed = [0, 1], policy = ["crop-flip", { scale = [0.2, 1.0] }] }
        [[student]]
        name = "s"
        student = "conv4-16"
        sweep = { store = ["a/one.zarr", "b/two.zarr"] }
    """)
    assert {str(each.store) for name, each in trained.items() if name.startswith("s,")} == {"a/one.zarr", "b/two.zarr"}
    scratch = {name: each for name, each in trained.items() if name.startswith("scratch")}
    assert len(scratch) == 4
    assert "scratch,policy=crop-flip,seed=1" in scratch
    assert sum(each.policy.scale == (0.2, 1.0) for each in scratch.values()) == 2
    assert not any("/" in name for name in trained)


def test_models_and_cells_follow_the_order_of_the_recipe() -> None:
    recipe, cells = expand(
        recipe_of("""
        [[pretrain]]
        name = "scratch"
        arch = "conv4-16"
        [[student]]
        name = "s"
        student = "conv4-16"
        sweep = { seed = [0, 1] }
        [evaluate]
        models = ["s", "embed", "scratch", "random/conv4-16"]
    """)
    )
    assert recipe.evaluate.models == ("s,seed=0", "s,seed=1", "embed", "scratch", "random/conv4-16")
    assert [(cell.name, cell.table, cell.values) for cell in cells] == [
        ("scratch", "scratch", {}),
        ("s,seed=0", "s", {"seed": 0}),
        ("s,seed=1", "s", {"seed": 1}),
    ]


def test_a_recipe_without_lists_stays_as_it_is() -> None:
    recipe = read_recipe("quickstart")
    expanded, cells = expand(recipe)
    assert plan_steps(expanded) == plan_steps(recipe)
    assert all(cell.values == {} for cell in cells)


STUDENT = '[[student]]\nname = "s"\nstudent = "conv4-16"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            STUDENT + "sweep = { sede = [0] }",
            "There is no key 'sede' that student 's' could sweep. Did you mean 'seed'",
        ),
        (STUDENT + "sweep = { seed = 3 }", "'seed' in the sweep of student 's' must be a list of values to try, got 3"),
        (STUDENT + "sweep = { seed = [] }", "must be a list of values to try, got []"),
        (STUDENT + "sweep = { seed = [1, 2, 1] }", "'seed' in the sweep of student 's' has 1 twice"),
        (STUDENT + "sweep = [1]", "sweep of student 's' must be a table of lists"),
        (STUDENT + "seed = 1\nsweep = { seed = [1, 2] }", "'seed' of student 's' has a value and a list of values"),
        (STUDENT + 'sweep = { run = ["a"] }', "'run' cannot be swept by student 's': the recipe itself decides it"),
        ("[distill]\nseed = 1\nsweep = { seed = [1, 2] }", "'seed' of [distill] has a value and a list of values"),
        (STUDENT + f"sweep = {{ head = ['none', '{'x' * 39}'], split = ['{'y' * 39}'], key_momentum = [0.{'1' * 30}], "
         f"temperature = [0.{'2' * 30}], warmup_epochs = [{'3' * 38}] }}", "is too long for a folder's name"),
    ],
)  # fmt: skip
def test_lists_that_make_no_sense_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        expand(recipe_of(text))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("head", "text", "sentence"),
    [
        (HEAD + "sweep = { views = [1, 2] }\n", STUDENT, "[embed.sweep] cannot be: a recipe has one store."),
        (HEAD.replace("size = 16", "size = 16\nsweep = { seed = [1] }"), STUDENT, "[settings.sweep] cannot be"),
        (
            HEAD.replace("random/conv4-16", "big"),
            '[[pretrain]]\nname = "big"\narch = "conv4-16"\nsweep = { seed = [0, 1] }',
            "The teacher 'big' cannot be swept: a recipe has one store.",
        ),
    ],
)
def test_what_a_recipe_has_once_is_not_swept(head: str, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        expand(recipe_of(text, head))
    assert sentence in str(refused.value)


def test_plain_run_of_a_recipe_with_lists_is_sent_to_sweep() -> None:
    with pytest.raises(InputError, match="run it with 'compress-ssl sweep'"):
        plan_steps(recipe_of(STUDENT + "sweep = { seed = [0, 1] }"))
