"""Distillation as others write it: a loop with a live teacher, on torchvision's or DALI's views. Run by ``peers.py``.

python -m tests.benchmarks.live_loop image-folder|dali DATA EPOCHS
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, normalize, softmax
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

SIZE, BATCH, BANK, THREADS, TEMPERATURE = 64, 64, 256, 2, 0.04
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def image_folder(data: Path, epochs: int) -> Iterator[Tensor]:
    """Yield batches of normalised images (B, 3, S, S), as torchvision's examples make them."""
    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    view = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    images = ImageFolder(str(data / "train"), view)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=THREADS, drop_last=True, persistent_workers=True)
    for _ in range(epochs):
        for batch, _ in loader:
            yield batch


def dali(data: Path, epochs: int) -> Iterator[Tensor]:
    """Yield batches of normalised images (B, 3, S, S), as DALI's example for PyTorch makes them."""
    pipeline = Pipeline(BATCH, THREADS, device_id=None)
    with pipeline:
        files, _ = fn.readers.file(file_root=str(data / "train"), random_shuffle=True, name="reader")
        decoded = fn.decoders.image_random_crop(
            files, output_type=types.RGB, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        resized = fn.resize(decoded, resize_x=SIZE, resize_y=SIZE)
        scaled = {"mean": [255 * value for value in MEAN], "std": [255 * value for value in STD]}
        pipeline.set_outputs(
            fn.crop_mirror_normalize(
                resized, dtype=types.FLOAT, output_layout="CHW", mirror=fn.random.coin_flip(), **scaled
            )
        )
    loader = DALIGenericIterator(
        [pipeline], ["images"], reader_name="reader", auto_reset=True, last_batch_policy=LastBatchPolicy.DROP
    )
    for _ in range(epochs):
        for (batch,) in loader:
            yield batch["images"]


VIEWS: dict[str, Callable[[Path, int], Iterator[Tensor]]] = {"image-folder": image_folder, "dali": dali}


def main(views: str, data: Path, epochs: int) -> None:
    """Train a ResNet-18 by CompRess-1q's loss."""
    torch.set_num_threads(THREADS)
    teacher, student = resnet18().eval(), resnet18()
    teacher.fc, student.fc = nn.Identity(), nn.Linear(512, 512)
    bank, position = normalize(torch.randn(BANK, 512), dim=1), 0
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    for images in VIEWS[views](data, epochs):
        with torch.no_grad():
            target = normalize(teacher(images), dim=1)
        queries = normalize(student(images), dim=1)
        by_student, by_teacher = (embeddings @ bank.T / TEMPERATURE for embeddings in (queries, target))
        loss = kl_div(log_softmax(by_student, dim=1), softmax(by_teacher, dim=1), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bank[position : position + BATCH] = target
        position = (position + BATCH) % BANK


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
