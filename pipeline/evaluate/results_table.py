"""One table of the results of several evaluations, which says what images its scores are of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from compress_ssl.storage.typed_files import read_json


class _Images(TypedDict, total=False):
    train_images: int | None
    test_images: int | None
    train_images_xxh3: str
    subset: str


class _Numbers(_Images, total=False):
    nearest: list[_Images]
    subsets: list[_Images]


class _DataSet(TypedDict, total=False):
    name: str
    fingerprint: dict[str, str]


class _Network(TypedDict):
    name: str
    architecture: str


class _File(TypedDict):
    """The result of an evaluation, as far as tables need it; early ones lack the optional keys."""

    network: _Network
    scores: dict[str, FiniteFloat]
    data_set: NotRequired[_DataSet]
    result: NotRequired[_Numbers]
    train_split: NotRequired[str | None]
    test_split: NotRequired[str | None]


class Table(NamedTuple):
    """Column headings, one row of cells per network, and sentences to print below."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()


class ScoredImages(NamedTuple):
    """The images of a score."""

    data_set: str
    train: int | None  # number of training images: the neighbours, or those a classifier was trained on
    test: int | None
    content: tuple[str, ...]  # hashes of the images of both splits, and of the rows of a subset; empty if unknown

    def __str__(self) -> str:
        """Return a phrase with both numbers."""
        if self.train is None or self.test is None:
            return f"images of {self.data_set} (how many was not recorded)"
        return f"{self.test:,} test images and {self.train:,} training images of {self.data_set}"

    def counts(self) -> dict[str, Any]:
        """Return the dataset's name and both numbers as JSON values."""
        return {"data_set": self.data_set, "train_images": self.train, "test_images": self.test}

    def may_be(self, other: "ScoredImages") -> bool:
        """Return True unless something known of both differs; a dataset's name counts where no hash is known."""
        hashes = [(one, two) for one, two in zip(self.content, other.content, strict=True) if one and two]
        same_name = bool(hashes) or self.data_set == other.data_set
        return same_name and self[1:3] == other[1:3] and all(one == two for one, two in hashes)


class Result(NamedTuple):
    """What a table shows of one evaluation."""

    network: str
    architecture: str
    scores: dict[str, float]  # percent, by column heading
    images: dict[str, ScoredImages]  # by the same headings


def results_table(results: Iterable[Path]) -> Table:
    """Collect results, JSON files of evaluations, in one table; consecutive ones of one network share a row.

    Its columns are network, architecture, then all scores in percent, in the order of their first appearance. A cell is
    empty if a network has no such score.

    Raises:
        UnreadableFileError: If a file is not a result.
    """
    rows: list[Result] = []
    for path in results:
        result = read_result(path)
        if rows and rows[-1][:2] == result[:2] and not rows[-1].scores.keys() & result.scores.keys():
            rows[-1].scores.update(result.scores)
            rows[-1].images.update(result.images)
        else:
            rows.append(result)
    headings = tuple(dict.fromkeys(heading for row in rows for heading in row.scores))
    cells = [
        (row.network, row.architecture, *(f"{row.scores[each]:.1f}" if each in row.scores else "" for each in headings))
        for row in rows
    ]
    return Table(
        ("network", "architecture", *headings), cells, image_notes([(row.network, row.images) for row in rows])
    )


def image_notes(rows: Sequence[tuple[str, Mapping[str, ScoredImages]]]) -> tuple[str, ...]:
    """Return sentences that say what images the scores of a table are of, and a warning if they cannot be compared.

    Args:
        rows: Name of each network, and the images of each of its scores.
    """
    of_heading: dict[str, list[list[tuple[str, ScoredImages]]]] = {}  # rows, in groups that may be of the same images
    for name, images in rows:
        for heading, each in images.items():
            groups = of_heading.setdefault(heading, [])
            group = next((group for group in groups if all(each.may_be(other) for _, other in group)), None)
            if group is None:
                groups.append(group := [])
            group.append((name, each))
    alike: dict[str, list[str]] = {}
    for heading, groups in of_heading.items():
        if len(groups) == 1:
            alike.setdefault(str(groups[0][0][1]), []).append(heading)
    differing = [heading for heading, groups in of_heading.items() if len(groups) > 1]
    if len(alike) == 1 and not differing:
        return (f"Of {next(iter(alike))}.",)
    notes = [f"{'; '.join(headings)}: of {phrase}." for phrase, headings in alike.items()]
    for heading in differing:
        parts = "; ".join(f"{group[0][1]}: {', '.join(name for name, _ in group)}" for group in of_heading[heading])
        notes.append(f"{heading} is of different images, and cannot be compared between them. {parts}.")
    return tuple(notes)


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        UnreadableFileError: If the file is not the result of an evaluation.
    """
    record = read_json(path, _File, otherwise="run the evaluation again")
    scores, network = record["scores"], record["network"]
    images = {heading: _images_of(record, heading) for heading in scores}
    return Result(network["name"], network["architecture"], scores, images)


def _images_of(record: _File, heading: str) -> ScoredImages:
    """Return the images of a score; the evaluations have their numbers at different places."""
    data_set, result = record.get("data_set", {}), record.get("result", {})
    subsets = {f"{each.get('subset')} labels": each for each in result.get("subsets", ())}
    nearest = result.get("nearest", [])[:1]
    part: Any = {**result, **(nearest[0] if nearest else {}), **subsets.get(heading.removesuffix(", top-5"), {})}
    prints = data_set.get("fingerprint", {})
    content = [prints.get(split or "", "") for split in (record.get("train_split"), record.get("test_split"))]
    content.append(part.get("train_images_xxh3", ""))
    name = data_set.get("name", "an unknown dataset")
    return ScoredImages(name, part.get("train_images"), part.get("test_images"), tuple(content))
