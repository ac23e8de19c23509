"""Tars and folders made by accident or malice: are images, classes and bytes read right, refused, or read wrong?

python -m tests.reliability.hostile_images --count 20 [--seed 0]

Every kind is made of a random dataset with classes. A dataset counts as read right if its listing has each image with
its class and its bytes, and nothing else.
"""

import io
import os
import random
import stat
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.source import read_image, read_stamp
from tests.reliability.options import parser

Images = dict[str, tuple[str, bytes]]
"""Class and bytes of each image, by its name: CLASS/NAME.jpg."""


def draw_images(draw: random.Random) -> Images:
    names = [f"{name}/{number}" for name in "abc" for number in draw.sample(range(999), draw.randint(1, 5))]
    return {f"{name}.jpg": (name[0], draw.randbytes(draw.randint(1, 2000))) for name in names}


Member = tuple[str, bytes, dict[str, Any]]


def members_of(images: Images) -> list[Member]:
    """Each image and its label."""
    pairs = (
        ((path, content, {}), (path.replace(".jpg", ".cls"), name.encode(), {}))
        for path, (name, content) in images.items()
    )
    return [member for pair in pairs for member in pair]


def tar_of(members: list[Member], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content, attributes in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            for key, value in attributes.items():
                setattr(header, key, value)
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def with_one_as(kind: bytes) -> Callable[[Images, random.Random], bytes]:
    """Make one member, an image or a label, of another type."""

    def make(images: Images, draw: random.Random) -> bytes:
        members, at = members_of(images), draw.randrange(2 * len(images))
        members[at] = (members[at][0], members[at][1], {"type": kind, "linkname": members[at - 1][0]})
        return tar_of(members)

    return make


def dotted(images: Images, draw: random.Random) -> bytes:
    """Names like photo.a0.jpg, of which a key is ``photo``."""
    members = members_of(images)
    draw.shuffle(members)
    return tar_of([(f"photo.{name.replace('/', '')}", content, more) for name, content, more in members])


def one_label_twice(images: Images, draw: random.Random) -> bytes:
    members = members_of(images)
    label = draw.choice(members[1::2])
    return tar_of([*members, (label[0], draw.choice([b"a", b"b", b"other"]), {})])


def concatenated(images: Images, draw: random.Random) -> bytes:
    members = members_of(images)
    at = 2 * draw.randrange(1, len(images))
    return tar_of(members[:at]) + tar_of(members[at:])


def cut(images: Images, draw: random.Random) -> bytes:
    whole = tar_of(members_of(images))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        last = tar.getmembers()[-1]
    return whole[: draw.randrange(last.offset_data + tarfile.BLOCKSIZE)]


def flipped_header(images: Images, draw: random.Random) -> bytes:
    """One flipped bit in a header."""
    whole = bytearray(tar_of(members_of(images)))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        header = draw.choice(tar.getmembers()).offset
    whole[header + draw.randrange(500)] ^= 1 << draw.randrange(8)
    return bytes(whole)


def sized_by_pax(images: Images, draw: random.Random) -> bytes:
    """A size for all members, as no header has it."""
    size = str(draw.randint(0, 3))
    return tar_of(members_of(images), format=tarfile.PAX_FORMAT, pax_headers={"size": size})


def in_format(number: int) -> Callable[[Images, random.Random], bytes]:
    def make(images: Images, draw: random.Random) -> bytes:
        members = [(f"{'ü' * 120}{name}", *more) for name, *more in members_of(images)]
        return tar_of(members, format=number) + bytes(draw.randrange(3) * tarfile.RECORDSIZE)

    return make


TARS: dict[str, Callable[[Images, random.Random], bytes]] = {
    "long names, GNU": in_format(tarfile.GNU_FORMAT),
    "long names, pax": in_format(tarfile.PAX_FORMAT),
    "a contiguous member": with_one_as(tarfile.CONTTYPE),
    "names with dots": dotted,
    "a second label": one_label_twice,
    "cat a.tar b.tar": concatenated,
    "cut short": cut,
    "a flipped bit in a header": flipped_header,
    "a hard link": with_one_as(tarfile.LNKTYPE),
    "a symbolic link": with_one_as(tarfile.SYMTYPE),
    "a device": with_one_as(tarfile.CHRTYPE),
    "a pipe": with_one_as(tarfile.FIFOTYPE),
    "a sparse member": with_one_as(tarfile.GNUTYPE_SPARSE),
    "an unknown type": with_one_as(b"Z"),
    "a size in a global pax header": sized_by_pax,
}

FOLDERS: dict[str, Callable[[Path, str, random.Random], object]] = {
    "a link to a folder above": lambda place, _, draw: place.symlink_to("/".join([".."] * draw.randint(1, 4))),
    "a link to itself": lambda place, *_: place.symlink_to("."),
    "a link to another class": lambda place, other, _: place.symlink_to(f"../{other}"),
    "a hidden folder": lambda place, *_: _hidden(place.with_name(".ipynb_checkpoints")),
    "a file of macOS": lambda place, *_: place.with_name("._1.jpg").write_bytes(b"\0\5\x16\7"),
    "a pipe": lambda place, *_: os.mkfifo(place.with_suffix(".jpg")),
    "a socket": lambda place, *_: os.mknod(place.with_suffix(".jpg"), stat.S_IFSOCK | 0o600),
    "a link to a device": lambda place, *_: place.with_suffix(".jpg").symlink_to("/dev/zero"),
    "a broken link": lambda place, *_: place.with_suffix(".jpg").symlink_to("nowhere"),
}
"""What is put into a class folder besides its images: at a place, given another class."""


def _hidden(folder: Path) -> None:
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"copy")


def read(data: Path) -> Images:
    source = open_source(data, "train")
    listing = source.listing()
    for path in listing.paths:
        read_stamp(source, path)
    return {
        path: (listing.class_names[label] if listing.class_names else "", read_image(source, path))
        for path, label in zip(listing.paths, listing.labels, strict=True)
    }


def answer(data: Path, images: Images, name_of: Callable[[str], str]) -> str:
    try:
        found = {name_of(path): image for path, image in read(data).items()}
    except InputError:
        return "refused"
    return "right" if found == images else "wrong"


def main(count: int, seed: int) -> dict[str, Counter[str]]:
    """Print a line a kind; give back how often each answer was given."""
    results: dict[str, Counter[str]] = {}
    for kind in [*(f"tar: {name}" for name in TARS), *(f"folder: {name}" for name in FOLDERS)]:
        draw, answers = random.Random(f"{seed} {kind}"), Counter[str]()
        for _ in range(count):
            images = draw_images(draw)
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder)
                name = kind.partition(": ")[2]
                if kind.startswith("tar"):
                    (data / "train.tar").write_bytes(TARS[name](images, draw))
                    answers[answer(data, images, lambda path: path.removeprefix("train.tar/").lstrip("ü"))] += 1
                else:
                    for path, (_, content) in images.items():
                        (data / "train" / path).parent.mkdir(parents=True, exist_ok=True)
                        (data / "train" / path).write_bytes(content)
                    one, other = draw.sample("abc", 2)
                    FOLDERS[name](data / "train" / one / "0", other, draw)
                    answers[answer(data, images, str)] += 1
        results[kind] = answers
        print(
            f"{kind}: {count} times; " + ", ".join(f"{answers[word]} {word}" for word in ("right", "refused", "wrong"))
        )
    return results


if __name__ == "__main__":
    main(**vars(parser(__doc__, count=20).parse_args()))
