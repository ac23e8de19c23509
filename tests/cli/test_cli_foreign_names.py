"""Names from anybody's store or disk reach the terminal, cards and figures as text, and nothing more."""

import ast
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from compress_ssl.cli.main import main
from compress_ssl.cli.output import LineFormatter
from compress_ssl.cli.progress import TerminalProgress
from compress_ssl.cli.tables import print_table
from compress_ssl.pipeline.common.figures import write_figure
from compress_ssl.pipeline.evaluate.results_table import Table
from compress_ssl.storage import Samples, SplitPlan
from compress_ssl.storage.printable import printable
from compress_ssl.storage.writer import StoreWriter, create_store

ROOT = Path(__file__).parents[2]

ESCAPE = "\x1b]0;owned\x07\x1b[31mred"
HOSTILE = f"{ESCAPE}\u202egpj.\r\n| a | [b](javascript:alert(1)) ![c](http://d/e.png) <script>f</script> `g` **h** $i"
SPLIT = 'train")\nimport os  # '
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")  # all that must not be printed; lines may end


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose every name is hostile."""
    samples = Samples(
        sample_path=[f"a{ESCAPE}.jpg"],
        label=np.zeros(1, np.int32),
        image_size=np.ones((1, 2), np.int32),
        content_hash=np.ones(1, np.uint64),
        status=np.zeros(1, np.uint8),
        class_names=(HOSTILE,),
    )
    view = {"policy": {"name": HOSTILE, "resize": 8}, "seed": None, "size": 8, "interpolation": HOSTILE}
    attributes = {
        "teacher": {"name": HOSTILE, "architecture": HOSTILE, "feature_dim": 2, HOSTILE: HOSTILE, "precision": HOSTILE},
        "data_set": {"name": HOSTILE, "images": 1},
        "rendering": {"renderer": HOSTILE, "device_kind": HOSTILE},
        "computed_with": {"versions": {HOSTILE: HOSTILE}},
    }
    plan = SplitPlan(samples, "images", [view], ("row",), 2, 1)
    place = tmp_path / "hostile\x1b[31m.zarr"
    create_store(place, attributes, {SPLIT: plan})
    writer = StoreWriter(place)
    writer.write_block(SPLIT, 0, 0, np.ones((1, 2), np.float32), np.ones((1, 1), np.float32))
    writer.finish()
    return place


def test_commands_print_no_control_character_of_a_name(store: Path) -> None:
    missing = store / f"none{ESCAPE}"
    for words in (
        ["store", "info", str(store)],
        ["store", "list", str(store.parent)],
        ["store", "card", str(store)],
        ["store", "info", str(missing)],
        ["store", "copy", str(store), str(store.with_name(f"copy{ESCAPE}"))],
        ["store", "export", str(store), "--to", str(store.with_name(f"{ESCAPE}.h5"))],
        ["store", "info", str(store), "one", f"too{ESCAPE}much"],
        [f"no{ESCAPE}command"],
        ["evaluate", "knn", str(store), "--train-split", SPLIT, "--test-split", f"{ESCAPE}x"],
        ["run", str(missing)],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code in (0, 2), result.output
        assert not RAW.search(result.output), (words, result.output)
        assert "\\x1b" in result.output, words


def test_only_one_place_prints() -> None:
    for path in sorted((ROOT / "cli").rglob("*.py")):
        if path.name not in ("output.py", "completion.py"):
            found = re.search(r"click\.s?echo\(|(?<!\.)\bprint\(|sys\.std", path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_card_shows_names_as_text(store: Path) -> None:
    card = json.loads(CliRunner().invoke(main, ["store", "card", str(store), "--json"]).stdout)["card"]
    assert not RAW.search(card)
    outside = re.sub(r"```python\n.*?\n```", "", card.split("\n---\n", 1)[1], flags=re.DOTALL)
    for sign in ("<script", "](", "**h", " `g`"):
        assert not re.search(rf"(?<!\\){re.escape(sign)}", outside), sign
    for line in outside.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in (4, 9), line  # tables of two and of seven columns
    for block in re.findall(r"```python\n(.*?)\n```", card, flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["xarray"]
        assert repr(SPLIT) in block


def test_log_and_tables_and_progress_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("a", logging.INFO, __file__, 1, "made %s", (HOSTILE,), None)
    assert LineFormatter("%(message)s").format(record) == f"made {printable(HOSTILE)}"
    print_table(Table(("network", HOSTILE), [(f"{ESCAPE}[bold]n :warning:", "1.0")], (HOSTILE,)), HOSTILE)
    print_table(Table(("network",), [("[bold]n :warning:",)]))
    with TerminalProgress().track(HOSTILE, 1) as advance:
        advance(1)
    printed = capsys.readouterr()
    assert not RAW.search(printed.out + printed.err)
    assert "[bold]n :warning:" in printed.out


@pytest.mark.parametrize("name", [r"$\x$ $", "$a$", "a$b$^", "$" * 3, r"\$"])
def test_dollars_in_a_figure_are_letters(tmp_path: Path, name: str) -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], [1, 2], label=name)
    axes.set(title=name, xlabel=name)
    axes.set_xticks([1, 2], [name, "b"])
    figure.legend()
    write_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_escapes_of_names() -> None:
    assert printable("ä 漢字 👩\u200d👩\u200d👧 \udcff\u202e\x9b") == "ä 漢字 👩\u200d👩\u200d👧 \\udcff\\u202e\\x9b"
