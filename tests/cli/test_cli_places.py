"""All stages with stores on S3 and behind a web server, as a user calls them; what is secret is written nowhere."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from safetensors.numpy import load_file

from tests.servers import SECRET, Server

Call = Callable[..., Result]


def assert_same_weights(*runs: Path) -> None:
    first, second = (load_file(run / "model.safetensors") for run in runs)
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def test_store_on_s3_is_made_looked_at_trained_from_and_scored(
    call: Call,
    workplace: Path,
    bucket: str,
    s3: Server,
    embed_options: tuple[str, ...],
    distill_options: tuple[str, ...],
) -> None:
    store = f"{bucket}/teacher.zarr"
    made = call("embed", "data", store, *embed_options)
    assert made.exit_code == 0, made.output
    assert (workplace.parent / "cache/compress-ssl/index/teacher.zarr").is_dir()
    info = json.loads(call("store", "info", store, "--json").stdout)
    assert (info["path"], info["splits"]["train"]["views_complete"]) == (store, 3)
    assert call("store", "verify", store).output.endswith("ok\n")
    refused = call("embed", "data", store, *embed_options)
    assert (refused.exit_code, "exists already" in refused.output) == (2, True)
    assert call("embed", "data", store, *embed_options, "--resume").exit_code == 0

    trained = call("distill", store, "data", "on-s3", *distill_options)
    assert trained.exit_code == 0, trained.output
    assert_same_weights(workplace / "on-s3", workplace / "student")
    assert json.loads((workplace / "on-s3/settings.json").read_bytes())["store"] == store

    asked = call("evaluate", store)
    assert (asked.exit_code, "is not on this machine; give a folder for the results with --output" in asked.output) == (
        2,
        True,
    )
    scored = call("evaluate", store, "--output", "scores", "--json")
    assert scored.exit_code == 0, scored.output
    (remote,) = json.loads(scored.stdout)
    (local,) = json.loads(call("evaluate", "teacher.zarr", "--json").stdout)
    assert remote["result"] == local["result"]
    for file in (file for file in workplace.parent.rglob("*") if file.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file


def test_second_epoch_reads_nothing_from_the_network(
    call: Call, workplace: Path, bucket: str, s3: Server, distill_options: tuple[str, ...]
) -> None:
    assert call("store", "copy", "teacher.zarr", f"{bucket}/teacher.zarr").exit_code == 0
    chunks: list[list[str]] = []
    for run in ("first", "second"):
        before = len(s3.requests())
        done = call("distill", f"{bucket}/teacher.zarr", "data", run, *distill_options)
        assert done.exit_code == 0, done.output
        chunks.append([path for path in s3.requests()[before:] if "/c/" in path])
    assert chunks[0]
    assert len(set(chunks[0])) == len(chunks[0])
    assert chunks[1] == []


def test_store_behind_a_web_server_is_looked_at_trained_from_and_scored(
    call: Call, workplace: Path, web: Server, distill_options: tuple[str, ...]
) -> None:
    assert call("store", "copy", "teacher.zarr", web.root / "teacher.zarr").exit_code == 0
    store = f"{web.url}/teacher.zarr"
    assert f"{store}: format version 1" in call("store", "info", store).output
    assert call("store", "verify", store).exit_code == 0
    trained = call("distill", store, "data", "from-web", *distill_options)
    assert trained.exit_code == 0, trained.output
    assert_same_weights(workplace / "from-web", workplace / "student")
    assert call("evaluate", store, "--output", "scores").exit_code == 0
    refused = call("embed", "data", f"{store}.new", "--teacher", "random/conv4-16")
    assert (refused.exit_code, "can only be read" in refused.output) == (2, True)


def test_copy_says_what_it_did(call: Call, workplace: Path, bucket: str) -> None:
    target = f"{bucket}/copy.zarr"
    first = json.loads(call("store", "copy", "teacher.zarr", target, "--json").stdout)
    again = json.loads(call("store", "copy", "teacher.zarr", target, "--json").stdout)
    assert first == {**first, "source": "teacher.zarr", "target": target, "copied": first["parts"]}
    assert again == {**first, "copied": 0}
    assert call("store", "copy", target, "back.zarr").stdout.endswith("all checked (0 already present)\n")
    assert call("store", "verify", "back.zarr").exit_code == 0


UNUSABLE = [
    (("store", "info", "s3://nowhere/x.zarr"), "there is no such bucket"),
    (("store", "info", f"https://me:{SECRET}@host/x.zarr"), "'https://host/x.zarr' was given with a password"),
    (("distill", f"https://host/x.zarr?sig={SECRET}", "data", "run", "--student", "conv4-16"), "'https://host/x"),
    (("evaluate", f"s3://b/x.zarr?key={SECRET}"), "'s3://b/x.zarr' was given with a password"),
    (("store", "copy", "teacher.zarr", "https://host/x.zarr"), "can only be read"),
    (("evaluate", "s3://nowhere/x.zarr", "--output", "out"), "there is no such bucket"),
]


def test_place_that_cannot_be_used_is_one_sentence(call: Call, workplace: Path, s3: Server) -> None:
    for words, sentence in UNUSABLE:
        done = call(*words)
        assert done.exit_code == 2, done.output
        assert sentence in done.output
        assert SECRET not in done.output
        assert "Traceback" not in done.output


def test_pixel_hashes_have_no_place_beside_a_remote_store(
    call: Call, workplace: Path, bucket: str, embed_options: tuple[str, ...]
) -> None:
    done = call("embed", "data", f"{bucket}/x.zarr", *embed_options, "--pixel-hashes", "10")
    assert (done.exit_code, "--pixel-hashes writes a file beside the store" in done.output) == (2, True)


def test_embed_writes_the_same_store_to_google(
    call: Call, workplace: Path, google_bucket: str, embed_options: tuple[str, ...]
) -> None:
    done = call("embed", "data", f"{google_bucket}/teacher.zarr", *embed_options)
    assert done.exit_code == 0, done.output
    made = call("store", "copy", f"{google_bucket}/teacher.zarr", "copied.zarr")
    assert made.exit_code == 0, made.output
    for file in Path("teacher.zarr").rglob("*"):
        if file.is_file():
            assert (Path("copied.zarr") / file.relative_to("teacher.zarr")).read_bytes() == file.read_bytes(), file


def test_recipe_trains_from_a_store_on_s3_and_knows_when_it_changes(call: Call, workplace: Path, bucket: str) -> None:
    store = f"{bucket}/teacher.zarr"
    assert call("store", "copy", "teacher.zarr", store).exit_code == 0
    Path("mine.toml").write_text(
        f'folder = "made"\ndata = "data"\n[distill]\nstore = "{store}"\nepochs = 1\nbatch_size = 8\nbank_size = 16\n'
        '[[student]]\nname = "small"\nstudent = "conv4-16"\n'
        f'[evaluate]\nmodels = ["{store}"]\n'
    )
    done = call("run", "mine.toml")
    assert done.exit_code == 0, done.output
    plan = json.loads(call("run", "mine.toml", "--dry-run", "--json").stdout)
    assert SECRET not in "".join(file.read_text(errors="replace") for file in Path("made").rglob("*") if file.is_file())
    assert "up to date" in json.dumps(plan)
