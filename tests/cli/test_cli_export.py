"""``export`` as a user meets it: from a finished run with its scores, in words and as JSON; bad input in a sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Call = Callable[..., Result]


def test_run_is_exported_with_teacher_images_method_and_its_own_scores(call: Call, workplace: Path) -> None:
    record = json.loads(Path("student/settings.json").read_bytes())
    Path("student/settings.json").write_text(json.dumps({**record, "store": "teacher.zarr"}))  # the copy's
    for words in (("teacher.zarr",), ("student", "--data", "data")):
        assert call("evaluate", *words).exit_code == 0
    stale = json.loads(Path("student/nearest-neighbour.json").read_bytes())
    stale["network"]["weights_sha256"] = "0" * 64
    Path("student/stale.json").write_text(json.dumps({**stale, "scores": {"stale": 12.3}}))
    result = call("export", "student", "out", "--no-onnx")
    assert result.exit_code == 0, result.stderr
    card = Path("out/README.md").read_text()
    teacher, data_set = record["inputs"]["teacher"], record["inputs"]["data_set"]
    assert "# student\n" in card
    assert f"distilled from the teacher `{teacher['name']}` (a conv4-16) by the objective compress-2q" in card
    assert f"| weights sha256 | {teacher['weights_sha256']} |" in card
    assert f"train {data_set['fingerprint']['train']}" in card
    assert "| images | 32 |" in card
    for name, value in (("temperature", 0.04), ("bank size", 16), ("epochs", 2), ("random views", 2)):
        assert f"| {name} | {value} |" in card
    scores = json.loads(Path("student/nearest-neighbour.json").read_bytes())
    theirs = json.loads(Path("teacher.zarr.evaluation/nearest-neighbour.json").read_bytes())
    expected = [
        f"| {each['network']['name']} | {each['evaluation']} | data | train → val | {title} | {percent:.1f} |"
        for each in (scores, theirs)
        for title, percent in each["scores"].items()
    ]
    assert len(expected) >= 2
    assert [line for line in card.splitlines() if "train → val" in line] == expected
    assert "torch 2." in card
    assert "Koohpayegani" in card
    assert str(workplace) not in card


def test_json_has_paths_hashes_sizes_and_the_difference_and_words_say_it_too(call: Call, workplace: Path) -> None:
    result = call("-q", "export", "student", "out", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["folder"] == "out"
    assert list(printed["files"]) == ["model.safetensors", "model.onnx", "README.md"]
    for file in printed["files"].values():
        content = Path(file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert 0 <= printed["onnx"]["relative_difference"] < 1e-4
    assert f"{printed['onnx']['relative_difference']:.1e} of the largest feature" in Path("out/README.md").read_text()
    words = call("export", "student", "out", "--overwrite")
    assert words.exit_code == 0, words.stderr
    assert f"SHA-256 {hashlib.sha256(Path('out/model.safetensors').read_bytes()).hexdigest()}" in words.stdout
    assert "ONNX differs from PyTorch by at most" in words.stdout


def test_export_can_be_evaluated_and_embedded_with(call: Call, workplace: Path, embed_options: tuple[str, ...]) -> None:
    assert call("export", "student", "out", "--no-onnx").exit_code == 0
    options = ("--teacher", "out", *embed_options[2:])
    assert call("embed", "data", "again.zarr", *options).exit_code == 0
    for model in ("out", "student"):
        assert call("evaluate", model, "--data", "data").exit_code == 0
    mine, theirs = (json.loads(Path(model, "nearest-neighbour.json").read_bytes()) for model in ("out", "student"))
    assert mine["scores"] == theirs["scores"]


UNUSABLE = [
    (("student", "student"), "'student' is not empty and holds no export; give another folder."),
    (("student", "data", "--overwrite"), "'data' is not empty and holds no export; give another folder."),
    (("student", "teacher.zarr/zarr.json"), "is a file; give a folder to export to."),
    (("data", "out"), "'data' holds no model.safetensors; it is not a finished run"),
    (("random/resnet19", "out"), "There is no architecture 'resnet19'. Did you mean 'resnet1"),
    (("studnet", "out"), "The network 'studnet' is not a run's folder, "),
    (("student",), "Missing argument 'OUT'."),
]


def test_bad_input_is_one_sentence_and_leaves_nothing(call: Call, workplace: Path) -> None:
    before = sorted(workplace.rglob("*"))
    for words, sentence in UNUSABLE:
        result = call("export", *words)
        assert result.exit_code == 2
        assert sentence in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
        assert sorted(workplace.rglob("*")) == before
