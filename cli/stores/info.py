"""``compress-ssl store info``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from compress_ssl.cli.output import echo, json_option, print_result

if TYPE_CHECKING:
    from compress_ssl.storage import EmbeddingStore


@click.command("info")
@click.argument("store", type=click.Path())
@json_option
def command(store: str, as_json: bool) -> None:
    """Describe a store: teacher, images, size and completeness."""
    from compress_ssl.storage import describe, open_store

    opened = open_store(store)
    description = describe(opened)
    print_result(description, as_json, lambda: echo(*_lines(store, description, _spread(opened))))


def _spread(store: EmbeddingStore) -> str:
    """Describe how much the embeddings differ; empty for a remote store, and for a damaged one."""
    from compress_ssl.storage.errors import StoreError
    from compress_ssl.storage.tools.spread import embedding_spread

    try:
        spread = embedding_spread(store) if store.path.is_local else None
    except StoreError:
        return ""
    return spread.sentence if spread else ""


def _lines(store: str, description: dict[str, Any], spread: str) -> list[str]:
    teacher, data, rendering, computed = (
        description.get(key) or {} for key in ("teacher", "data_set", "rendering", "computed_with")
    )
    facts = [
        f"{teacher.get('name', 'unknown')} ({teacher.get('architecture', 'unknown')})",
        f"{teacher['feature_dim']} features" if "feature_dim" in teacher else "",
        f"pool {teacher['pool']}" if "pool" in teacher else "",
        str(teacher.get("precision", "")),
        f"weights {teacher['weights_sha256'][:12]}" if teacher.get("weights_sha256") else "",
    ]
    versions = ", ".join(f"{name} {version}" for name, version in computed.get("versions", {}).items())
    precision = description.get("precision_against_float32")
    state = "complete" if description["complete"] else "not complete"
    lines = {
        "store": f"{store}: format version {description['version']}, {state}",
        "size": f"{description['bytes'] / 2**20:,.1f} MiB of embeddings; stored so far: "
        f"{description['stored_bytes'] / 2**20:,.1f} MiB in {description['objects']:,} objects",
        "teacher": ", ".join(filter(None, facts)),
        "precision": f"against float32: KL {precision['kl_mean_nats']:.2g} nats on average" if precision else "",
        "features": spread,
        "dataset": f"{data['name']}, {data['images']:,} images" if {"name", "images"} <= data.keys() else "",
        "rendered": f"by {rendering['renderer']} on {rendering['device_kind']}" if rendering else "",
        "versions": versions,
        "written by": writer_sentence(description["writer"]),
    }
    splits = [_split_line(name, split) for name, split in description["splits"].items()]
    patches = [
        f"{'patches':<10} of {name}: {patches_phrase(split['patches'])}"
        for name, split in description["splits"].items()
        if split["patches"]
    ]
    return [f"{name:<10} {text}" for name, text in lines.items() if text] + splits + patches


def patches_phrase(patches: dict[str, Any]) -> str:
    """Return a phrase about the patches of a split: their shape, size and quality."""
    grid, views = patches["grid"], patches["views"]
    return (
        f"{grid} x {grid} of {patches['components']} of {patches['channels']} components, in {len(views)} views "
        f"({', '.join(map(str, views))}), {patches['bytes'] / 2**20:,.1f} MiB, "
        f"{100 * patches['explained_variance']:.1f} % of the variance, reconstruction cosine "
        f"{patches['reconstruction_cosine']:.3f}"
    )


def writer_sentence(writer: dict[str, Any] | None) -> str:
    """Return the process that writes the store now; empty if there is none."""
    if writer is None:
        return ""
    seconds = max(0, time.time() - writer["heartbeat"])
    return f"process {writer['process']} on {writer['machine'].split()[0]}, last heartbeat {seconds:.0f} s ago"


def _split_line(name: str, split: dict[str, Any]) -> str:
    committed, blocks = sum(split["blocks_committed"]), split["blocks"] * len(split["views"])
    policies = list(
        dict.fromkeys(f"{(view.get('policy') or {}).get('name')} {view.get('size')} px" for view in split["views"])
    )
    if "shrink" in split["views"][0]:
        policies.append("scaled decoding")
    if (split["views"][0].get("policy") or {}).get("squash"):
        policies.append("squash")
    return (
        f"{name:<10} {split['samples']:,} images ({split['bad_images']} bad), {split['classes']} classes, "
        f"{len(split['views'])} views ({', '.join(policies)}), {split['bytes'] / 2**20:,.1f} MiB, "
        + ("complete" if committed == blocks else f"{committed} of {blocks} blocks done")
    )
