"""The dataset card of a store: Markdown with Hugging Face metadata (huggingface/hub-docs, datasetcard.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from compress_ssl.storage.printable import printable
from compress_ssl.storage.tools.markdown import code, facts, literal, python, section, table, text, variable

TAGS = ("compress-ssl", "embeddings", "image-features", "self-supervised", "knowledge-distillation", "zarr")

COMPRESS = (
    "Koohpayegani, Tejankar, Pirsiavash, CompRess: Self-Supervised Learning by Compressing Representations, "
    "NeurIPS 2020"
)

SIZES = (
    *("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"),
    *("100M<n<1B", "1B<n<10B", "10B<n<100B"),
)  # Hugging Face's categories: below 1,000 examples, then by powers of ten

LICENCE = (
    "Not known to the program that wrote this: the licences of the teacher's weights and of the images decide. Put "
    "yours into the metadata, as `license: ...`."
)


def store_card(name: str, description: Mapping[str, Any], citations: Sequence[str] = ()) -> str:
    """Return the card of a store: what it holds, and how to read it.

    Args:
        name: Name of the store's folder, which is beside the card.
        description: The result of ``storage.describe``.
        citations: The teacher's.
    """
    rendering, computed = (description.get(key, {}) for key in ("rendering", "computed_with"))
    precision = description.get("precision_against_float32")
    made_with = {**rendering, **computed, **({"precision against float32": precision} if precision else {})}
    data_set = description.get("data_set", {})
    images = {key: value for key, value in data_set.items() if not key.startswith("fingerprint")}
    sections = (
        _metadata(description),
        f"# {text(_title(description))}\n\n{_introduction(description)}",
        section("Teacher", facts(description.get("teacher", {}))),
        section("Images", facts(images)),
        section("Splits", _splits(description["splits"])),
        section("Views", _views(description["splits"])),
        section("Patches", _patches(description["splits"])),
        section("Reading it", _reading(name, description)),
        section("Made with", facts(made_with)),
        section("Licence", LICENCE),
        section("Citation", "\n".join(f"- {citation}" for citation in (*citations, COMPRESS))),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def _metadata(description: Mapping[str, Any]) -> str:
    count = sum(split["samples"] for split in description["splits"].values())
    data = DatasetCardData(
        pretty_name=printable(_title(description)),
        task_categories=["image-feature-extraction"],
        size_categories=[SIZES[min(len(SIZES) - 1, max(0, len(str(count)) - 3))]],
        tags=list(TAGS),
        viewer=False,
    )
    return f"---\n{data.to_yaml()}\n---"


def _title(description: Mapping[str, Any]) -> str:
    teacher, data = (description.get(key, {}).get("name", "unknown") for key in ("teacher", "data_set"))
    return f"Embeddings of {data} by {teacher}"


def _introduction(description: Mapping[str, Any]) -> str:
    splits = description["splits"].values()
    images, views = sum(split["samples"] for split in splits), max((len(split["views"]) for split in splits), default=0)
    state = "" if description["complete"] else " **It is not complete yet.**"
    return (
        f"An embedding store: the outputs of a teacher network for {images:,} images, each in up to {views} views; "
        f"{description['bytes'] / 2**20:,.1f} MiB of float16. The augmentation parameters of each random view are "
        f"stored, so that a student can be trained on exactly the pixels that the teacher saw.{state}"
    )


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, split in splits.items():
        numbers = (split["bad_images"], split["classes"], len(split["views"]), split["feature_dim"])
        rows.append((name, f"{split['samples']:,}", *numbers, f"{split['bytes'] / 2**20:,.1f}"))
    return table(("split", "images", "bad images", "classes", "views", "features", "MiB"), rows)


def _views(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of views, with one row for consecutive views that are alike."""
    rows: list[list[Any]] = []
    for name, split in splits.items():
        for number, view in enumerate(split["views"]):
            policy = dict(view.get("policy") or {})
            settings = [view.get(key) for key in ("size", "interpolation", "seed")]
            alike = [name, policy.pop("name", ""), policy, *settings]
            if rows and rows[-1][1:] == alike:
                rows[-1][0] = f"{rows[-1][0].partition(' ')[0]} to {number}"
            else:
                rows.append([str(number), *alike])
    head = ("split", "view", "policy", "its settings", "pixels of a side", "interpolation", "seed")
    return table(head, [(row[1], row[0], *row[2:]) for row in rows]) if rows else ""


def _patches(splits: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, split in splits.items():
        if patches := split["patches"]:
            grid, components = patches["grid"], f"{patches['components']} of {patches['channels']}"
            views = ", ".join(map(str, patches["views"]))
            shares = (f"{patches[key]:.3f}" for key in ("explained_variance", "reconstruction_cosine"))
            rows.append((name, f"{grid} x {grid}", components, views, *shares, f"{patches['bytes'] / 2**20:,.1f}"))
    head = ("split", "grid", "components", "views", "share of variance", "reconstruction cosine", "MiB")
    return table(head, rows) if rows else ""


def _reading(name: str, description: Mapping[str, Any]) -> str:
    name_of_split = next(iter(description["splits"]), "train")
    split, store, group = variable(name_of_split, "split"), literal(name), literal(name_of_split)
    ours = (
        "from compress_ssl.storage import open_store\n\n"
        f"{split} = open_store({store})[{group}]\n"
        f"{split}.view(0)  # (N, D) float16, the evaluation view of every image\n"
        f"{split}.samples.sample_path[5], {split}.samples.label[5], {split}.samples.good[5]"
    )
    theirs = (
        "import xarray\n\n"
        f"{split} = xarray.open_zarr({store}, group={group})\n"
        f'{split}["embeddings"].sel(view=0).values.astype("float32")  # NaN where an image was bad\n'
        f'{split}["sample_path"].values, {split}["label"].values'
    )
    made_as = f"format {code(description.get('format'))}, version {description.get('version')}"
    return (
        f"The store is the folder {code(name)} beside this card, a zarr v3 group ({made_as}). With compress-ssl:\n\n"
        f"{python(ours)}\n\nWith xarray alone:\n\n{python(theirs)}"
    )
