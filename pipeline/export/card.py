"""The model card: Markdown with Hugging Face metadata; its Python code runs in the exported folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from compress_ssl.pipeline.export.folder import ONNX_FILE
from compress_ssl.pipeline.export.loading import Loading, loading_lines
from compress_ssl.pipeline.export.onnx import TOLERANCE, Agreement
from compress_ssl.pipeline.export.origin import Origin
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage.tools import markdown
from compress_ssl.storage.tools.markdown import python, section, table

TAGS = ("image-feature-extraction", "self-supervised", "knowledge-distillation", "compress-ssl")

COMPRESS = (
    "Koohpayegani, Tejankar, Pirsiavash, CompRess: Self-Supervised Learning by Compressing Representations, "
    "NeurIPS 2020"
)


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
    loadings = loading_lines(network)
    scores = [(*score[:-1], f"{score.percent:.1f}") for score in origin.scores]
    sections = (
        _metadata(loadings),
        f"# {network.name}\n\n{_introduction(network, origin)}",
        section("Network", table(("", ""), _network_rows(network, identity))),
        section("Use", _use(network, loadings, agreement)),
        *(section("Teacher", _facts(teacher)) for teacher in origin.teachers),
        section("Images", _facts(_images(origin))),
        section("Method", _facts(origin.settings)),
        section("Scores", table(("network", "evaluation", "data set", "splits", "score", "percent"), scores))
        if scores
        else "",
        section("Versions", _versions(trained=origin.versions, exported=versions)),
        section("Citation", "\n".join(f"- {citation}" for citation in _citations(network, origin))),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def _metadata(loadings: Sequence[Loading]) -> str:
    data = ModelCardData(
        library_name=loadings[0].library,
        pipeline_tag="image-feature-extraction",
        tags=list(dict.fromkeys((*TAGS, *(loading.library for loading in loadings)))),
    )
    licence = "# license: not known to the exporter; the licences of the teacher's weights and of the images decide"
    return f"---\n{data.to_yaml()}\n{licence}\n---"


def _introduction(network: Network, origin: Origin) -> str:
    backbone = f"A {network.architecture} without its classifier: images in, {network.feature_dim} features out."
    if origin.teachers:
        names = [f"`{teacher.get('name')}` (a {teacher.get('architecture')})" for teacher in origin.teachers]
        teachers = f"the teacher{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        return f"{backbone} It was distilled from {teachers} by the objective {origin.settings.get('objective')}."
    if "method" in origin.settings:
        return f"{backbone} It was trained by {origin.settings['method']}."
    if network.name in TEACHERS:
        return f"{backbone} It is the published teacher {network.name}."
    return f"{backbone} How it was trained is not recorded in its source."


def _network_rows(network: Network, identity: Mapping[str, Any]) -> list[tuple[str, Any]]:
    preprocessing = network.preprocessing
    size = f"short side {preprocessing.resize}, centre crop {preprocessing.size}"
    return [
        ("architecture", network.architecture),
        ("parameters", f"{sum(parameter.numel() for parameter in network.module.parameters()):,}"),
        ("features", network.feature_dim),
        ("feature layer", identity.get("feature_layer", "")),
        ("image", f"{size}, {preprocessing.interpolation}, antialiased"),
        ("mean", f"{list(preprocessing.mean)}, of RGB in [0, 1]"),
        ("standard deviation", list(preprocessing.std)),
        ("SHA-256 of the weights", identity["weights_sha256"]),
        *([("checkpoint file", identity["checkpoint"])] if "checkpoint" in identity else []),
    ]


def _use(network: Network, loadings: Sequence[Loading], agreement: Agreement | None) -> str:
    preprocessing = network.preprocessing
    parts = [
        "Images, preprocessed as for evaluation, `(N, 3, S, S)` in [0, 1]:",
        python(
            "import torch\n"
            "from PIL import Image\n"
            "from torchvision.transforms import InterpolationMode, v2\n\n"
            "prepare = v2.Compose([\n"
            f"    v2.Resize({preprocessing.resize}, InterpolationMode.{preprocessing.interpolation.upper()}),\n"
            f"    v2.CenterCrop({preprocessing.size}),\n"
            "    v2.ToImage(),\n"
            "    v2.ToDtype(torch.float32, scale=True),\n"
            "])\n"
            'images = torch.stack([prepare(Image.open("photograph.jpg").convert("RGB"))])'
        ),
    ]
    for loading in loadings:
        parts += [f"The network, with {loading.library} alone:", python(f"{loading.code}\nnetwork.eval()")]
    parts += [
        f"Features `(N, {network.feature_dim})`:",
        python(
            "normalised = v2.functional.normalize("
            f"images, {list(preprocessing.mean)}, {list(preprocessing.std)})\n"
            "with torch.inference_mode():\n"
            "    features = network(normalised)"
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


def _images(origin: Origin) -> dict[str, Any]:
    """Return the data set's description, and that of the teacher's random views."""
    if len(origin.views) < 2:
        return origin.data_set
    view = origin.views[1]
    views = {"random views": len(origin.views) - 1, "pixels of a side": view["size"], "policy": view["policy"]}
    return {**origin.data_set, **views}


def _versions(**versions: Mapping[str, str]) -> str:
    return "\n".join(
        f"- {when} with {', '.join(f'{name} {version}' for name, version in libraries.items())}"
        for when, libraries in versions.items()
        if libraries
    )


def _citations(network: Network, origin: Origin) -> list[str]:
    names = dict.fromkeys((network.name, *(teacher.get("name") for teacher in origin.teachers)))
    teachers = [TEACHERS[name].citation for name in names if name in TEACHERS]
    return [COMPRESS, *teachers] if str(origin.settings.get("objective", "")).startswith("compress") else teachers


def _facts(facts: Mapping[str, Any]) -> str:
    first = {name: facts[name] for name in ("name", "architecture", "objective") if name in facts}
    return markdown.facts({**first, **facts})
