"""docs/teachers.md: the numbers of its table are timm's."""

import re
from pathlib import Path

import pytest
import timm
import torch

from compress_ssl.pipeline.networks.pooling import authors_pool, forward_pool
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_preprocessing

PAGE = Path(__file__).parents[3] / "docs" / "teachers.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| `(vit|eva|aim)", line)
]


def test_the_table_lists_the_teachers_of_2026() -> None:
    for family in ("dinov2", "dinov3", "siglip", "pe_core", "radio", "aimv2", "tips", "clip", "mae"):
        assert any(family in row[0] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("`") for row in ROWS])
def test_a_row_of_the_table_is_what_timm_has(row: list[str]) -> None:
    name, dims, prefix, patches, pixels, patch, own, squash, licence = row
    name = name.strip("`")
    with torch.device("meta"):
        module, feature_dim = timm_backbone(name, depth=1)
        tokens = module.forward_features(torch.zeros(1, 3, int(pixels), int(pixels)))
    preprocessing, (side, _) = timm_preprocessing(name), module.patch_embed.patch_size
    assert (int(dims), int(prefix), int(pixels), int(patch)) == (
        *(feature_dim, module.num_prefix_tokens, preprocessing.size, side),
    )
    assert tokens.shape == (1, int(prefix) + int(patches), int(dims))
    authors, timms = authors_pool(f"timm/{name}"), forward_pool(module)
    if authors is None:
        assert own == f"timm's `{timms}`"
    else:
        assert own == f"`{authors}`" + ("" if authors == timms else f"; timm: `{timms}`")
    assert squash == ("yes" if preprocessing.squash else "no")
    assert licence == timm.get_pretrained_cfg(name).license
