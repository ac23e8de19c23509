"""The model card: Markdown with Hugging Face metadata; its Python code runs in the exported folder."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub import ModelCardData
from torchvision import models

from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.export.folder import ONNX_FILE
from compress_ssl.pipeline.export.onnx import TOLERANCE, Agreement
from compress_ssl.pipeline.export.origin import Origin
from compress_ssl.pipeline.networks.architectures import TIMM, default_preprocessing
from compress_ssl.pipeline.networks.backbone import SMALL_IMAGES
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.pooling import forward_pool
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage.tools import markdown
from compress_ssl.storage.tools.markdown import python, section, table, text

TAGS = ("image-feature-extraction", "self-supervised", "knowledge-distillation", "compress-ssl")

SMALL_STEMS: dict[str, tuple[str, ...]] = {
    r"(resnet|resnext|wide_resnet)\d+\w*": (
        "network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)",
        "network.maxpool = torch.nn.Identity()",
    ),
    "mobilenet_v2": ("network.features[0][0].stride = (1, 1)",),
    "alexnet": (
        "network.features[0] = torch.nn.Conv2d(3, 64, 3, padding=1)",
        "network.features[12] = torch.nn.Identity()",
    ),
}  # code that adapts torchvision's network to small images, by pattern of its name

IN_TIMM_TOO = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)  # torchvision's networks that timm has under the same name, with equal parameter names and outputs


def model_card(
    network: Network,
    identity: Mapping[str, Any],
    origin: Origin,
    agreement: Agreement | None,
    versions: Mapping[str, str],
) -> str:
    """Return the card of a network.

    Args:
        identity: Of the network: architecture, hash of the weights, preprocessing.
        agreement: Of the ONNX file with torch; None without ONNX file.
        versions: Of the libraries that export it.
    """
    loading = loading_code(network)
    metadata = ModelCardData(
        library_name=next(iter(loading)),
        pipeline_tag="image-feature-extraction",
        tags=list(dict.fromkeys((*TAGS, *loading))),
    )
    licence = "# license: not known to the exporter; the licences of the teacher's weights and of the images decide"
    images = dict(origin.data_set)
    if len(origin.views) > 1:  # random views of the teacher, besides the first
        view = origin.views[1]
        images |= {"random views": len(origin.views) - 1, "pixels of a side": view["size"], "policy": view["policy"]}
    scores = table(("network", "evaluation", "dataset", "splits", "score", "percent"), origin.scores)
    with_versions = [
        f"- {when} with {text(', '.join(map(' '.join, libraries.items())))}"
        for when, libraries in (("trained", origin.versions), ("exported", versions))
        if libraries
    ]
    names = dict.fromkeys((network.name, *(teacher.get("name") for teacher in origin.teachers)))
    citations = [TEACHERS[name].citation for name in names if name in TEACHERS]
    if str(origin.settings.get("objective", "")).startswith("compress"):
        citations.insert(
            0,
            "Koohpayegani, Tejankar, Pirsiavash, CompRess: Self-Supervised Learning by Compressing Representations, "
            "NeurIPS 2020",
        )
    sections = (
        f"---\n{metadata.to_yaml()}\n{licence}\n---",
        f"# {text(network.name)}\n\n{_introduction(network, origin)}",
        section("Network", table(("", ""), _network_rows(network, identity))),
        section("Use", _use(network, loading, agreement)),
        *(section("Teacher", _facts(teacher)) for teacher in origin.teachers),
        section("Images", _facts(images)),
        section("Method", _facts(origin.settings)),
        section("Scores", scores if origin.scores else ""),
        section("Versions", "\n".join(with_versions)),
        section("Citation", "\n".join(f"- {citation}" for citation in citations)),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def _introduction(network: Network, origin: Origin) -> str:
    backbone = f"A {network.architecture} without its classifier: images in, {network.feature_dim} features out."
    if origin.teachers:
        names = [
            f"{markdown.code(teacher.get('name'))} (a {text(teacher.get('architecture'))})"
            for teacher in origin.teachers
        ]
        teachers = f"the teacher{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        return f"{backbone} It was distilled from {teachers} by the objective {text(origin.settings.get('objective'))}."
    if "method" in origin.settings:
        return f"{backbone} It was trained by {text(origin.settings['method'])}."
    if network.name in TEACHERS:
        return f"{backbone} It is the published teacher {network.name}."
    return f"{backbone} How it was trained is not recorded in its source."


def _network_rows(network: Network, identity: Mapping[str, Any]) -> list[tuple[str, Any]]:
    preprocessing = network.preprocessing
    sides = "both sides" if preprocessing.squash else "short side"
    size = f"{sides} {preprocessing.resize}, centre crop {preprocessing.size}"
    return [
        ("architecture", network.architecture),
        ("parameters", f"{sum(parameter.numel() for parameter in network.module.parameters()):,}"),
        ("features", network.feature_dim),
        ("feature layer", identity.get("feature_layer", "")),
        *([("pool", network.pool)] if network.pool else []),
        ("image", f"{size}, {preprocessing.interpolation}, antialiased"),
        ("mean", f"{list(preprocessing.mean)}, of RGB in [0, 1]"),
        ("standard deviation", list(preprocessing.std)),
        ("SHA-256 of the weights", identity["weights_sha256"]),
        *([("checkpoint file", identity["checkpoint"])] if "checkpoint" in identity else []),
    ]


def loading_code(network: Network) -> dict[str, str]:
    """Return code that loads the weights into ``network``, by library that has it, else by this package."""
    architecture, code = network.architecture, {}
    base = architecture.removesuffix(SMALL_IMAGES)
    stem = [lines for pattern, lines in SMALL_STEMS.items() if base != architecture and re.fullmatch(pattern, base)]
    if base in models.list_models(module=models) and (stem or base == architecture):
        with torch.device("meta"):
            whole = models.get_model(base, weights=None)
        (head,) = {key.rpartition(".")[0] for key in whole.state_dict().keys() - network.module.state_dict().keys()}
        path = re.sub(r"\.(\d+)", r"[\1]", f".{head}")  # .fc, .classifier[6]
        lines = (
            "import torch",
            "import torchvision",
            "from safetensors.torch import load_file",
            "",
            f"network = torchvision.models.{base}()",
            *itertools.chain(*stem),
            f"network{path} = torch.nn.Identity()",
            f'network.load_state_dict(load_file("{MODEL_FILE}"))',
        )
        code["torchvision"] = "\n".join(lines)
    if architecture.startswith(TIMM) or architecture in IN_TIMM_TOO:
        is_resized = network.preprocessing.size != default_preprocessing(architecture).size
        option = ", dynamic_img_size=True" if is_resized and hasattr(network.module, "pos_embed") else ""
        options = f'num_classes=0, checkpoint_path="{MODEL_FILE}"{option}'
        code["timm"] = f'import timm\n\nnetwork = timm.create_model("{architecture.removeprefix(TIMM)}", {options})'
    imports = "from compress_ssl.pipeline.networks.network import load_network"
    return code or {"compress-ssl": f'{imports}\n\nnetwork = load_network("{MODEL_FILE}").module'}


def _use(network: Network, loading: Mapping[str, str], agreement: Agreement | None) -> str:
    preprocessing = network.preprocessing
    resize = f"({preprocessing.resize}, {preprocessing.resize})" if preprocessing.squash else preprocessing.resize
    parts = [
        "Images, preprocessed as for evaluation, `(N, 3, S, S)` in [0, 1]:",
        python(
            "import torch\n"
            "from PIL import Image\n"
            "from torchvision.transforms import InterpolationMode, v2\n\n"
            "prepare = v2.Compose([\n"
            f"    v2.Resize({resize}, InterpolationMode.{preprocessing.interpolation.upper()}),\n"
            f"    v2.CenterCrop({preprocessing.size}),\n"
            "    v2.ToImage(),\n"
            "    v2.ToDtype(torch.float32, scale=True),\n"
            "])\n"
            'images = torch.stack([prepare(Image.open("photograph.jpg").convert("RGB"))])'
        ),
    ]
    for library, code in loading.items():
        parts += [f"The network, with {library} alone:", python(f"{code}\nnetwork.eval()")]
    parts += [
        f"Features `(N, {network.feature_dim})`:",
        python(
            "normalised = v2.functional.normalize("
            f"images, {list(preprocessing.mean)}, {list(preprocessing.std)})\n"
            "with torch.inference_mode():\n"
            f"    {_features_code(network)}"
        ),
    ]
    if agreement is not None:
        comparison = (
            f"On {agreement.images} photographs its features differ from PyTorch's by at most {agreement.relative:.1e} "
            f"of the largest feature (tolerance: {TOLERANCE:.0e})."
        )
        parts += [
            f"`{ONNX_FILE}` takes images in [0, 1] in any batch size and includes the normalization. {comparison}",
            python(
                "import onnxruntime\n\n"
                f'session = onnxruntime.InferenceSession("{ONNX_FILE}", providers=["CPUExecutionProvider"])\n'
                '(features,) = session.run(["features"], {"images": images.numpy()})'
            ),
        ]
    return "\n\n".join(parts)


def _features_code(network: Network) -> str:
    """Return the lines that compute features, as ``pooling.pooled_features`` does."""
    if network.pool in (None, forward_pool(network.module)):
        return "features = network(normalised)"
    pools = {"token": "tokens[:, 0]", "avg": f"tokens[:, {network.module.num_prefix_tokens}:].mean(dim=1)"}
    pooled = [f"network.fc_norm({pools[part]})" for part in network.pool.split("+")]
    features = pooled[0] if len(pooled) == 1 else f"torch.cat([{', '.join(pooled)}], dim=1)"
    return f"tokens = network.forward_features(normalised)\n    features = {features}"


def _facts(facts: Mapping[str, Any]) -> str:
    first = {name: facts[name] for name in ("name", "architecture", "objective") if name in facts}
    return markdown.facts({**first, **facts})
