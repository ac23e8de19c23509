"""A chain runs what a recipe would, by the same records; its stages have their own commands' options."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from compress_ssl.cli.chain import FROM_THE_CHAIN
from compress_ssl.cli.main import main
from compress_ssl.cli.options import option_name
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.evaluate.settings import KnnSettings
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

Call = Callable[..., Result]

STAGES: dict[str, tuple[type[Settings], set[str]]] = {
    "pretrain": (PretrainSettings, {"name"}),
    "embed": (EmbedSettings, set()),
    "distill": (DistillSettings, {"name"}),
    "evaluate": (KnnSettings, {"models", "also"}),
}
STUDENT = "distill --student conv4-16 --epochs 1 --batch-size 8 --bank-size 16"
CHAIN = (
    "pretrain --arch conv4-32 --name big --epochs 1 --batch-size 8 --size 16 --resize 16 "
    "embed --views 2 --split train --split val:0 --size 16 --resize 16 "
    f"{STUDENT} {STUDENT} --objective compress-1q --name one --milestones 3 --milestones 5 "
    "evaluate --labels-per-class 1 --size 16 --resize 16"
)
RECIPE = """
folder = "out"
data = "data"
[[pretrain]]
name = "big"
arch = "conv4-32"
epochs = 1
batch_size = 8
size = 16
resize = 16
[embed]
teacher = "big"
views = 2
split = ["train", "val:0"]
size = 16
resize = 16
[distill]
student = "conv4-16"
epochs = 1
batch_size = 8
bank_size = 16
[[student]]
name = "conv4-16-compress-2q"
[[student]]
name = "one"
objective = "compress-1q"
milestones = [3, 5]
[evaluate]
models = ["embed", "conv4-16-compress-2q", "one"]
size = 16
resize = 16
[evaluate.knn]
labels_per_class = [1]
"""
STEPS = [*("big", "embed", "conv4-16-compress-2q", "one"), *("knn embed", "knn conv4-16-compress-2q", "knn one")]


def chain(call: Call, *words: str, stages: str = CHAIN) -> Result:
    return call("chain", "--data", "data", "--folder", "out", "--threads", "1", *words, *stages.split())


@pytest.fixture
def here(images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images in ``data``."""
    images(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipe_that_says_the_same_finds_all_that_a_chain_made_up_to_date(call: Call, here: Path) -> None:
    first = chain(call, "--json")
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert [(step["step"], step["action"]) for step in answer["steps"]] == [(name, "run") for name in STEPS]
    assert [result["network"]["name"] for result in answer["results"]] == ["big", "conv4-16-compress-2q", "one"]
    (here / "recipe.toml").write_text(RECIPE)
    second = call("run", "recipe.toml", "--json")
    assert second.exit_code == 0, second.output
    assert [(step["step"], step["action"]) for step in json.loads(second.stdout)["steps"]] == [
        (name, "skip") for name in STEPS
    ]
    assert "Nothing to do: 7 of 7 steps up to date." in second.stderr
    third = chain(call, stages=f"{CHAIN} --labels-per-class 2")
    assert third.exit_code == 0, third.output
    todo = "evaluate knn embed, evaluate knn conv4-16-compress-2q, evaluate knn one"
    assert f"To do: {todo}; 4 of 7 steps up to date." in third.stderr
    forced = chain(call, "--force", "--dry-run")
    assert forced.stdout.splitlines()[:2] == ["run pretrain big: forced", "run embed: forced"]


def test_dry_run_says_what_would_be_done_on_standard_output_and_writes_nothing(call: Call, here: Path) -> None:
    result = chain(call, "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "run pretrain big: not run before",
        "run embed: not run before",
        "run distill conv4-16-compress-2q: not run before",
        "run distill one: not run before",
        "run evaluate knn embed: not run before",
        "run evaluate knn conv4-16-compress-2q: not run before",
        "run evaluate knn one: not run before",
    ]
    assert [path.name for path in here.iterdir()] == ["data"]


def test_models_that_are_named_are_evaluated_alone(call: Call, here: Path) -> None:
    stages = "embed --teacher random/conv4-32 evaluate --model random/conv4-16 --model embed"
    answer = json.loads(chain(call, "--dry-run", "--json", stages=stages).stdout)
    assert [step["step"] for step in answer["steps"]] == ["embed", "knn random/conv4-16", "knn embed"]


def test_stage_has_the_options_of_its_command_but_for_what_the_chain_decides(call: Call) -> None:
    for stage, (model, own) in STAGES.items():
        group = main.get_command(click.Context(main), "chain")
        assert isinstance(group, click.Group)
        given = {parameter.name: parameter for parameter in group.commands[stage].params}
        arguments = {name for name, field in model.model_fields.items() if field.json_schema_extra["argument"]} - {
            "store"
        }
        missing = {"store"} if stage == "embed" else set()
        assert given.keys() == model.model_fields.keys() - arguments - missing - set(FROM_THE_CHAIN) | own
        alone = main.get_command(click.Context(main), stage)
        assert alone is not None
        for other in alone.params:
            if other.name in given and other.name != "store":
                assert given[other.name].opts == [option_name(str(other.name))]
                assert given[other.name].type.name == other.type.name
        assert call("chain", stage, "--help").stdout.startswith(f"Usage: compress-ssl chain {stage} [OPTIONS]")


WRONG_CHAINS = [
    ("chain --data data embed --teacher random/conv4-16", "Missing option '--folder', before the first stage."),
    ("chain embed --teacher random/conv4-16", "Missing option '--data', before the first stage."),
    ("chain --data data --folder out", "Missing command."),
    ("chain --data data --folder out embd", "There is no command 'embd'. Did you mean 'embed'?"),
    ("chain --data data --folder out embed photographs", "There is no command 'photographs'."),
    ("chain --data data --folder out embed --veiws 3", "Did you mean one of: '--patch-views', '--views'?"),
    ("chain --data data --folder out embed --views 0", "--views: input should be greater than or equal to 1, got 0."),
    ("chain --data data --folder out --threads 0 embed", "--threads: input should be greater than or equal to 1"),
    (
        "chain --data data --folder out pretrain --arch conv4-16 --dry-run",
        "--dry-run is for the whole chain; give it before the first stage.",
    ),
    ("chain --data data --folder out evaluate --model embd", "There is no model 'embd'."),
    ("chain --data data --folder out pretrain", "Missing option '--arch'."),
    ("chain --data data --folder out distill --student conv4-16", "'distill' has no store; put 'embed' before it"),
    ("chain --data data --folder out embed", "'embed' has no teacher; give it --teacher, or put 'pretrain'"),
    ("chain --data gone --folder out embed --teacher random/conv4-16", "The dataset 'gone' does not exist"),
    ("chain --data data --folder out pretrain --arch conv4-17", "There is no architecture 'conv4-17'. Did you mean"),
    ("chain --data data --folder out pretrain --arch conv4-16 --name a/b", "needs a name that can be a folder's"),
]


def test_wrong_chain_is_answered_with_a_sentence_and_exit_code_2(call: Call, here: Path) -> None:
    for words, sentence in WRONG_CHAINS:
        result = call(*words.split())
        assert result.exit_code == 2
        assert sentence in " ".join(result.stderr.split())
        assert result.stdout == ""
        assert [path.name for path in here.iterdir()] == ["data"]
