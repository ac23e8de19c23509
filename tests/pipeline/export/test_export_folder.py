"""What is written, replaced and left alone; a published file without a run; what is refused before any work."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.export import run as stage
from compress_ssl.pipeline.export.run import export
from compress_ssl.pipeline.export.settings import ExportSettings
from compress_ssl.pipeline.networks.network import Network, load_network, save_network
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.durable import write_json_durably

NetworkOf = Callable[[str, int], Network]


@pytest.fixture
def run(network_of: NetworkOf, tmp_path: Path) -> Path:
    """Weights as a finished run has them."""
    save_network(tmp_path / "run" / MODEL_FILE, network_of("conv4-16", 16))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def with_onnx(network_of: NetworkOf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the folder it was exported to with ONNX; read them, never change them."""
    folder = tmp_path_factory.mktemp("with-onnx")
    save_network(folder / "run" / MODEL_FILE, network_of("conv4-16", 16))
    quick(folder / "run", folder / "out", onnx=True)
    return folder / "run", folder / "out"


def quick(run: Path | str, out: Path, **settings: bool) -> dict[str, object]:
    return export(ExportSettings(run=str(run), out=out, **{"onnx": False, **settings}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_is_a_network_reference_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    manifest = quick(run, tmp_path / "new" / "folders" / "out")
    theirs, ours = load_network(str(tmp_path / "new/folders/out")), load_network(str(run))
    assert theirs.identity() == ours.identity()
    assert theirs.preprocessing == ours.preprocessing
    assert load_file(tmp_path / "new/folders/out/model.safetensors").keys() == ours.module.state_dict().keys()
    assert manifest == json.loads((tmp_path / "new/folders/out/export.json").read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"]


def test_manifest_has_size_and_hash_of_each_file(with_onnx: tuple[Path, Path]) -> None:
    found = contents(with_onnx[1])
    files = json.loads(found.pop("export.json"))["files"]
    assert sorted(files) == sorted(found) == ["README.md", "model.onnx", "model.safetensors"]
    for name, data in found.items():
        assert files[name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_same_network_gives_the_same_card_and_onnx_to_the_byte(with_onnx: tuple[Path, Path], tmp_path: Path) -> None:
    run, out = with_onnx
    quick(run, tmp_path / "again", onnx=True)
    one, two = contents(out), contents(tmp_path / "again")
    for name in ("README.md", "model.onnx"):  # safetensors writes its metadata in any order
        assert one[name] == two[name]


def test_folder_inside_the_run_is_fine_and_the_run_itself_is_not(run: Path) -> None:
    quick(run, run / "export")
    before = contents(run / "export")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no export; give another folder"):
            quick(run, run, overwrite=overwrite)
    assert contents(run / "export") == before
    assert sorted(path.name for path in run.iterdir()) == ["export", MODEL_FILE]


def test_empty_folder_is_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    quick(run, tmp_path / "out")
    assert (tmp_path / "out" / MODEL_FILE).exists()


def test_overwrite_replaces_what_export_wrote_and_nothing_else(
    run: Path, network_of: NetworkOf, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quick(run, out, onnx=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds an export already; use --overwrite to replace it"):
        quick(run, out)
    save_network(run / MODEL_FILE, network_of("conv4-32", 16))
    quick(run, out, overwrite=True)
    assert sorted(contents(out)) == [
        "README.md",
        "export.json",
        "model.safetensors",
        "notes.txt",
    ]  # a stale model.onnx went
    assert (out / "notes.txt").read_text() == "mine"
    assert load_network(str(out)).architecture == "conv4-32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_card_that_somebody_edited_is_not_lost(run: Path, tmp_path: Path) -> None:
    quick(run, tmp_path / "out")
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace("# license: not known", "license: mit #"))
    before = contents(tmp_path / "out")
    with pytest.raises(
        InputError, match=r"README.md' was changed since export wrote it, and --overwrite would delete it"
    ):
        quick(run, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_manifest_cannot_name_files_outside(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    quick(run, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "export.json").read_bytes())
    manifest["files"]["../precious.txt"] = {"bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    write_json_durably(tmp_path / "out" / "export.json", manifest)
    quick(run, tmp_path / "out", overwrite=True)
    assert precious.read_text() == "mine"


def test_damaged_manifest_is_a_sentence(run: Path, tmp_path: Path) -> None:
    quick(run, tmp_path / "out")
    (tmp_path / "out" / "export.json").write_text("[]")
    with pytest.raises(StoreError, match=r"export.json' holds something else"):
        quick(run, tmp_path / "out", overwrite=True)


def test_onnx_that_differs_leaves_nothing_behind(run: Path, tmp_path: Path) -> None:
    network = load_network(str(run))
    next(network.module.parameters()).data.fill_(3e38)  # finite, but not what is computed with it
    save_network(run / MODEL_FILE, network)
    with pytest.raises(RunError, match="nothing was written"):
        quick(run, tmp_path / "deep" / "out", onnx=True)
    assert not (tmp_path / "deep" / "out").exists()
    assert list((tmp_path / "deep").iterdir()) == []


def test_killed_in_the_middle_leaves_the_earlier_export_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(run, tmp_path / "out")
    before = contents(tmp_path / "out")

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "model_card", killed)
    with pytest.raises(KeyboardInterrupt):
        quick(run, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_out_that_is_a_file_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out' is a file; give a folder to export to"):
        quick(run, tmp_path / "out", overwrite=True)


def test_unfinished_run_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    (run / MODEL_FILE).unlink()
    (run / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="is not a finished run"):
        quick(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_network_without_a_run_has_a_card_of_what_is_known(tmp_path: Path) -> None:
    quick("random/conv4-16", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "How it was trained is not recorded" in card
    assert "| parameters | 7,472 |" in card  # 16 x (3 + 3 x 16) x 9 of convolutions, 4 x 2 x 16 of batch norm
    for section in ("## Teacher", "## Images", "## Method", "## Scores", "## Citation"):
        assert section not in card


def test_earlier_state_of_a_run_has_the_runs_record(run: Path, network_of: NetworkOf, tmp_path: Path) -> None:
    write_json_durably(run / "settings.json", {"method": "simclr", "temperature": 0.2, "threads": 3, "limit": None})
    shutil.copytree(run, run / "best", ignore=lambda _, names: set(names) - {MODEL_FILE})
    for reference in (run / "best", run / "best" / MODEL_FILE):
        quick(reference, tmp_path / "out", overwrite=True)
        card = (tmp_path / "out" / "README.md").read_text()
        assert "# run/best\n" in card
        assert "It was trained by simclr." in card
        assert "| temperature | 0.2 |" in card
        assert "threads" not in card
        assert "limit" not in card


def test_record_that_cannot_be_read_is_a_sentence(run: Path, tmp_path: Path) -> None:
    (run / "settings.json").write_text("{")
    with pytest.raises(StoreError, match=r"settings.json' is not valid JSON"):
        quick(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exported_weights_are_float32_on_the_cpu(run: Path, tmp_path: Path) -> None:
    quick(run, tmp_path / "out")
    weights = load_file(tmp_path / "out" / MODEL_FILE)
    assert {weight.dtype for weight in weights.values()} == {torch.float32, torch.int64}  # int64: batch norm's counters
