"""LightlyTrain beside this package: same teacher, student, images and machine, the same CPU time.

    make .venv-peers/installed
    python -m tests.evidence.lightlytrain FOLDER efficientnet-lite0.safetensors --output docs/results/lightlytrain.json

EfficientNet-Lite0 is the teacher, a ResNet-18 the student, Imagenette the dataset. LightlyTrain 0.18 (`method=
"distillation"`, the one that accepts such a teacher; its own schedule, augmentation and mixup) runs the teacher in
every step, at the student's size. It scales its rate to the batch: 0.0005 becomes 0.0001; ten times that is the rate
of ours. Ours is `embed` at 128 pixels, once, and `distill` of it. Each arm has as many epochs as fit in the CPU
minutes, by the cost of one and of three epochs of a few images; the embedding counts for every student. One thread
each, two at a time. With a `--work` folder the same command goes on where it was stopped.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from compress_ssl.storage.places.durable import write_durably
from tests.benchmarks.__main__ import machine
from tests.benchmarks.measure import print_table
from tests.benchmarks.peers import OURS, PEERS

VIEWS = 4
TRIED = 512  # images of the runs that tell what an epoch costs
LIGHTLY_PROGRAM = """
import sys, timm, torch, lightly_train
from safetensors.torch import load_file
data, out, rate, epochs, size, seed, weights = sys.argv[1:]
class Teacher(torch.nn.Module):  # its own wrapper of timm counts 320 features; the network returns 1,280
    def __init__(self):
        super().__init__()
        self.network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        state = load_file(weights)
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})
    def forward_features(self, x): return {"features": self.network.forward_features(x)}
    def forward_pool(self, x): return {"pooled_features": x["features"].mean(dim=(2, 3), keepdim=True)}
    def feature_dim(self): return 1280
    def get_model(self): return self.network
    def architecture_info(self): return {"model_type": "tf_efficientnet_lite0", "num_input_channels": 3}
    def forward(self, x): return self.network(x)
torch.set_num_threads(1)
lightly_train.pretrain(
    out=out, data=data, model="torchvision/resnet18", method="distillation", epochs=int(epochs), batch_size=64,
    method_args={"teacher": Teacher()}, optim="adamw", optim_args={"lr": float(rate)},
    transform_args={"image_size": (int(size), int(size)), "normalize": {"mean": (0.5,) * 3, "std": (0.5,) * 3}},
    accelerator="cpu", devices=1, precision="32-true", num_workers=0, seed=int(seed), overwrite=True,
)
"""
STUDENT = ["--student", "resnet18", "--batch-size", "64", "--optimizer", "adamw", "--learning-rate", "0.001"]
STUDENT += ["--schedule", "cosine", "--memory-format", "contiguous", "--threads", "1", "--renderer", "auto"]
ARMS: dict[str, tuple[int, float | list[str]]] = {
    "LightlyTrain": (64, 0.0005),
    "LightlyTrain, 10 x its rate": (64, 0.005),
    "LightlyTrain, 128 px": (128, 0.0005),
    "LightlyTrain, 10 x its rate, 128 px": (128, 0.005),
    "ours, CompRess-1q": (64, ["--objective", "compress-1q", "--bank-size", "1024", "--prefill", "--mask-own"]),
    "ours, Reg-BN": (64, ["--objective", "reg-bn"]),
    "ours, LightlyTrain's loss": (64, ["--objective", "lightly", "--bank-size", "1024"]),
    "ours, Reg-BN, 128 px": (128, ["--objective", "reg-bn"]),
}
"""By name, the side of the student's images, and LightlyTrain's rate or our options of `distill`."""


class Used(NamedTuple):
    """What a process took."""

    cpu: float  # seconds
    wall: float  # seconds
    memory: float  # GiB, the most it held


class Places(NamedTuple):
    """Files of the comparison, and the number of its training images."""

    work: Path
    weights: Path
    images: int

    @property
    def data(self) -> Path:
        """Return the folder of the images."""
        return self.work / "data"


def run(command: list[str], said: Path) -> Used:
    """Run a command with one thread; raise RuntimeError with what it said last if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begun = os.times().elapsed
    with said.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command[:4]} failed: {said.read_text()[-2000:]}")
    return Used(usage.ru_utime + usage.ru_stime, os.times().elapsed - begun, usage.ru_maxrss / 2**20)


def embed(places: Places) -> Used:
    """Make the store that all of our students share."""
    teacher = f"timm/tf_efficientnet_lite0:{places.weights}"
    options = ["--teacher", teacher, "--size", "128", "--resize", "146", "--views", str(VIEWS), "--split", "train"]
    command = [*OURS, "embed", str(places.data), str(places.work / "store.zarr"), *options]
    return run(
        [*command, "--threads", "1", "--renderer", "auto", "--precision", "float32", "--overwrite"],
        places.work / "embed.log",
    )


def file_name(arm: str) -> str:
    """Return the name of an arm without spaces and commas."""
    return arm.replace(" ", "-").replace(",", "")


def train(places: Places, name: str, epochs: int, seed: int) -> tuple[Used, str]:
    """Train one student; return what it took, and how `evaluate` is given it."""
    size, way = ARMS[name]
    out = places.work / f"{file_name(name)}-{epochs}-{seed}"
    if isinstance(way, float):
        program = [f"{PEERS}/bin/python", "-c", LIGHTLY_PROGRAM, f"{places.data}/train", str(out)]
        program += [str(each) for each in (way, epochs, size, seed, places.weights)]
        used = run(program, out.with_suffix(".log"))
        return used, f"resnet18:{out}/exported_models/exported_last.pt"
    command = [*OURS, "distill", str(places.work / "store.zarr"), str(places.data), str(out), *STUDENT, *way]
    command += ["--student-size", str(size), "--epochs", str(epochs), "--seed", str(seed), "--overwrite"]
    return run(command, out.with_suffix(".log")), str(out)


def scores(places: Places, name: str, model: str) -> dict[str, float]:
    """Return NN, k-NN and linear accuracy of a network, in percent."""
    size, _ = ARMS[name]
    shared = ["--data", str(places.data), "--size", str(size), "--resize", str(round(size * 8 / 7)), "--threads", "1"]
    shared += ["--json"]
    linear = ["--policy", "identity", "--views", "1", "--lr-grid", "0.01", "--lr-grid", "0.1", "--lr-grid", "1"]
    knn, classifier = (
        json.loads(subprocess.run([*OURS, *command, *shared], check=True, stdout=subprocess.PIPE).stdout)[0]["result"]
        for command in (["evaluate", "knn", model], ["evaluate", "linear", model, *linear])
    )
    found = {f"k-NN {each['neighbours']}": each["top1_percent"] for each in knn["weighted"]}
    return {"NN": knn["nearest"][0]["top1_percent"], **found, "linear": classifier["top1_percent"]}


def epochs_within(budget: float, images: int, tried: Places, name: str) -> int:
    """Return the epochs of so many images that fit in a budget of CPU seconds, by the cost of one and of three."""
    one, three = (train(tried, name, epochs, seed=0)[0].cpu for epochs in (1, 3))
    image = (three - one) / (2 * tried.images)
    return max(1, int((budget - one + tried.images * image) / (images * image)))


def recorded(file: Path, measure: Callable[[], Any]) -> Any:
    """Return what an earlier call wrote into a file, or measure and write it."""
    if not file.is_file():
        write_durably(file, json.dumps(measure()).encode())
    return json.loads(file.read_text(encoding="utf-8"))


def link_images(source: Path, data: Path, count: int) -> None:
    """Link the test images and so many training images, evenly spaced, into a folder; raise ValueError if too few."""
    for split, kept in (("train", count), ("val", None)):
        files = sorted((source / split).glob("*/*"))
        if len(files) < (kept or 1):
            raise ValueError(f"'{source / split}' has {len(files)} images")
        chosen = files if kept is None else [files[number * len(files) // kept] for number in range(kept)]
        for file in chosen:
            target = data / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(file.resolve())


def main() -> None:
    """Run all arms and seeds; print the table, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="Imagenette: train/ and val/")
    parser.add_argument("weights", type=Path, help="efficientnet-lite0.safetensors")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes of each student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for what is made on the way (default: a temporary one)")
    given = parser.parse_args()
    budget = 60 * given.minutes
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        places = Places(given.work or Path(temporary), given.weights.resolve(), given.images)
        tried = Places(places.work / "tried", places.weights, TRIED)
        options = {
            "data": str(given.data.resolve()),
            "weights": str(places.weights),
            "images": given.images,
            "minutes": given.minutes,
        }
        places.work.mkdir(parents=True, exist_ok=True)
        if (before := recorded(places.work / "options.json", lambda: options)) != options:
            parser.error(f"'{places.work}' was made with {before}; give the same options, or another --work")
        for each in (places, tried):
            link_images(given.data, each.data, each.images)
        store, _ = (Used(*recorded(each.work / "store.json", partial(embed, each))) for each in (places, tried))

        def epochs_of(name: str) -> int:
            left = budget if isinstance(ARMS[name][1], float) else budget - store.cpu
            measure = partial(epochs_within, left, given.images, tried, name)
            return int(recorded(places.work / f"{file_name(name)}.json", measure))

        def one(arm: tuple[str, int, int]) -> dict[str, Any]:
            name, epochs, seed = arm

            def measure() -> dict[str, Any]:
                used, model = train(places, name, epochs, seed)
                return {"arm": name, "seed": seed, "epochs": epochs, **used._asdict(), **scores(places, name, model)}

            return dict(recorded(places.work / f"{file_name(name)}-{epochs}-{seed}.json", measure))

        epochs = dict(zip(ARMS, pool.map(epochs_of, ARMS), strict=True))
        runs = list(pool.map(one, [(name, epochs[name], seed) for name in ARMS for seed in range(given.seeds)]))
    result = {"machine": machine(), "images": given.images, "cpu_minutes": given.minutes, "store": store._asdict()}
    given.output.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n")
    rows = []
    for name in ARMS:
        own = [each for each in runs if each["arm"] == name]
        told = [[each[key] for each in own] for key in ("NN", "k-NN 20", "linear")]
        spread = [f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0:.1f}" for values in told]
        rate = given.images * epochs[name] / mean(each["cpu"] for each in own)
        memory = max(each["memory"] for each in own)
        rows.append([name, str(epochs[name]), *spread, f"{rate:.0f}", f"{memory:.1f}"])
    print(f"Store: {store.cpu:.0f} CPU s. {given.images:,} images, {given.minutes:g} CPU minutes, {machine()}.\n")
    print_table(["student by", "epochs", "NN", "k-NN 20", "linear", "images a CPU second", "GiB"], rows)


if __name__ == "__main__":
    main()
