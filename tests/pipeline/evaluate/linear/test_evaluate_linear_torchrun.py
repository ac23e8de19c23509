"""Linear evaluation on live features in two processes of torchrun, on the CPU by gloo, against one process."""

import json
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.evaluate.run import evaluate
from compress_ssl.pipeline.evaluate.settings import LinearSettings
from compress_ssl.pipeline.networks.network import load_network, save_network

QUICK: dict[str, Any] = {
    "size": 16, "resize": 17, "device": "cpu", "threads": 1, "renderer": "torchvision", "epochs": 2,
    "learning_rate": 0.1,
    "features": "live",
}  # fmt: skip


def test_two_processes_find_what_one_finds(data: Path, in_two_processes: Any) -> None:
    """Of 30 images the last step has 2 or 6: none for the second process, or fewer than for the first."""
    run = data.parent / "student"
    run.mkdir()
    save_network(run / MODEL_FILE, load_network("random/conv4-16"))

    def settings(name: str, **given: Any) -> LinearSettings:
        return LinearSettings(model=str(run), data=data, output=data.parent / name, **{**QUICK, **given})

    kinds: dict[str, dict[str, Any]] = {
        "none-for-the-second": {"classifier_batch_size": 28},
        "fewer-for-the-second": {"classifier_batch_size": 8, "lr_grid": (0.01, 0.1)},
    }
    refused = [settings("odd", classifier_batch_size=7), settings("stored", features="stored")]
    together = [settings(f"two-{name}", **given) for name, given in kinds.items()]
    first, second = in_two_processes([("linear", [each]) for each in (*together, *refused)])
    for number, (name, given) in enumerate(kinds.items()):
        one = evaluate(settings(f"one-{name}", **given), Silent()).result.model_dump_json()
        assert first[number] == json.loads(one)
        assert second[number] == first[number]
        written = {path.name for path in (data.parent / f"two-{name}").iterdir()}
        assert written == {path.name for path in (data.parent / f"one-{name}").iterdir()}
        assert json.loads((data.parent / f"two-{name}" / "linear.json").read_text())["result"] == first[number]
    odd, stored = ((first[number], second[number]) for number in (2, 3))
    assert any(
        "--classifier-batch-size 7 is the batch size over all ranks, and 2 processes do not" in each for each in odd
    )
    assert any("evaluate linear runs in one process" in each for each in stored)
