"""Real, small files of every kind that the tool reads: those of an earlier release, and what is made from them."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr
from click.testing import CliRunner
from PIL import Image

from compress_ssl.cli.main import main as command_line
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import open_store
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store
from tests.pipeline.images.tar_files import unpack

ARCHIVE = Path(__file__).parents[1] / "data" / "release-0.1.0.tar.xz"

VARIABLES = (
    *("COMPRESS_SSL_RETRY_SECONDS", "COMPRESS_SSL_CACHE", "COMPRESS_SSL_CACHE_BYTES", "XDG_CACHE_HOME", "NETRC"),
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"),
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SKIP_SIGNATURE", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_ALLOW_HTTP"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "CUDA_VISIBLE_DEVICES", "HTTPS_PROXY"),
)


class Refused(Exception):
    """A command ended with an exit code other than 0; the message is what it printed last."""


def call(*words: str) -> str:
    """Run a command in this process; return its standard output.

    Raises:
        Refused: If its exit code is 1 or 2.
        Exception: A fault of the program.
    """
    result = CliRunner().invoke(command_line, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        assert result.exit_code in (1, 2), result.exit_code
        raise Refused(result.stderr.rstrip("\n").rpartition("\n")[2])
    return result.stdout


def prepare(folder: Path) -> None:
    """Make real files of every kind in a folder: those of an earlier release, and what is derived from them."""
    unpack(ARCHIVE, folder)
    for file in folder.rglob("*"):
        file.chmod(file.stat().st_mode | 0o200)
    os.chdir(folder)
    for spare in (*Path("recipe/evaluation").glob("*/*.zarr"), Path("other.zarr"), Path("half.zarr")):
        shutil.rmtree(spare)
    for name, source in (("stores/whole.zarr", "whole.zarr"), ("interrupted.new", "interrupted/reg")):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.move(source, name)
    shutil.move("finished/reg", "finished.new")
    for name in ("interrupted", "finished"):
        shutil.rmtree(name)
        shutil.move(f"{name}.new", name)
    for name in (
        "caches",
        "flat/train",
        "foreign",
        "home/.aws",
        "kinds",
        "listed",
        "lists",
        "matrices",
        "out",
        "weights",
    ):
        Path(name).mkdir(parents=True)
    _prepare_stores()
    _prepare_images()
    _prepare_tensors()
    call("export", "finished", "exported")
    shutil.copytree("recipe/evaluation/two-queues", "evaluation/two-queues", ignore=shutil.ignore_patterns("*.zarr"))
    Path("home/.netrc").write_text("machine example.invalid login me password secret\n")
    Path("home/.aws/config").write_text(
        "[default]\nregion = eu-west-1\n[profile lab]\nendpoint_url = http://127.0.0.1:1\n"
    )
    Path("home/.aws/credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    Path("environment").write_text("".join(f"{name}=1\n" for name in (*VARIABLES[:3], "WORLD_SIZE")))


def _prepare_stores() -> None:
    shutil.copytree("stores/whole.zarr", "growing.zarr")
    grow_store("growing.zarr", {"train": SplitGrowth([open_store("growing.zarr")["train"].views[-1]])}, {})
    words = (
        "--teacher random/conv4-16 --size 32 --resize 32 --views 1 --split train --policy crop-flip+mixup --patches 3"
    )
    call("embed", "images", "patched.zarr", *words.split(), "--index-folder", "patched-index", "--threads", "1")
    for file in Path("patched.zarr").rglob("*"):
        file.chmod(file.stat().st_mode | 0o200)
    with writer_lease("stores/whole.zarr"):
        lease = json.loads(Path("stores/whole.zarr.lease").read_bytes())
    Path("stores/whole.zarr.lease").write_text(json.dumps(lease | {"started": "0"}))
    features = open_store("stores/whole.zarr")["train"].view(0).astype(np.float32)
    np.save("matrices/m.npy", features)
    with h5py.File("matrices/m.h5", "w") as file:
        file["m"] = features
    zarr.create_array("matrices/m.zarr", data=features, chunks=(8, 16))
    torch.save((torch.from_numpy(features), torch.zeros(24, dtype=torch.int64)), "matrices/m.pth")


def _prepare_images() -> None:
    paths = sorted(path.relative_to("images/train").as_posix() for path in Path("images/train").rglob("*.*"))
    call("pack", "images", "pack.h5", "--split", "train")
    with tarfile.open(_made("tars/train/train-0.tar"), "w") as tar:
        for number, path in enumerate(paths):
            tar.add(f"images/train/{path}", f"{number:03d}{Path(path).suffix}")
            Path("label").write_text(path.partition("/")[0])
            tar.add("label", f"{number:03d}.cls")
    Path("lists/paths.txt").write_text("\n".join(paths))
    Path("listed/train.txt").write_text("".join(f"images/{path}\t{path[0]}\n" for path in paths))
    shutil.copytree("images/train", "listed/images")
    for number, path in enumerate(paths[:6]):
        shutil.copy(f"images/train/{path}", f"flat/train/{number}{Path(path).suffix}")
    Path("lists/labels.txt").write_text("".join(f"{number} c{number % 2}\n" for number in range(6)))
    Path("lists/labels.csv").write_text("image,class\n" + "".join(f"{number},c{number % 2}\n" for number in range(6)))
    for number, path in enumerate(paths):
        suffix = ("jpg", "png", "webp", "tiff", "bmp", "gif")[number % 6]
        with Image.open(f"images/train/{path}") as image:
            image.convert("RGB").save(_made(f"kinds/train/{path.partition('/')[0]}/{number}.{suffix}"))
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    Path("voc.xml").write_text(
        "<annotation><size><width>500</width><height>375</height><depth>3</depth></size>"
        f"<object><name>cat</name><difficult>0</difficult>{box}</object></annotation>"
    )


def _prepare_tensors() -> None:
    save_network(Path("weights/own.safetensors"), load_network("recipe/teacher"))
    network = load_network("random/resnet18")
    state = {f"module.encoder_q.{key}": value for key, value in network.module.state_dict().items()}
    small = {
        key: value if value.numel() < 1000 else value.flatten()[:1].expand(value.shape) for key, value in state.items()
    }
    torch.save({"state_dict": small, "epoch": 200}, "foreign/moco.pth")


def _made(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)
