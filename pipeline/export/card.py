"""The model card: Markdown with the head that Hugging Face reads; its Python runs in the exported folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.export.folder import ONNX_FILE
from compress_ssl.pipeline.export.loading import loading_lines
from compress_ssl.pipeline.export.onnx import TOLERANCE
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage.tools import markdown
from compress_ssl.storage.tools.markdown import python, section, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from compress_ssl.pipeline.export.loading import Loading
    from compress_ssl.pipeline.export.onnx import Agreement
    from compress_ssl.pipeline.export.origin import Origin, Score
    from compress_ssl.pipeline.networks.network import Network

TAGS = ("image-feature-extraction", "self-supervised", "knowledge-distillation", "compress-ssl")

COMPRESS = "Koohpayegani, Tejankar, Pirsiavash, CompRess: Self-Supervised Learning by Compressing Representations, NeurIPS 2020"


def model_card(
    network: Network,
    identity: Mapping[str, Any],
    origin: Origin,
    agreement: Agreement | None,
    versions: Mapping[str, str],
) -> str:
    """Write what is known of a network, and how to use it.

    Parameters
    ----------
    identity : mapping
        The network's own: architecture, hash of its weights, preprocessing.
    agreement : Agreement, optional
        Of ONNX with torch; None where there is no ONNX file.
    versions : mapping
        Of the libraries that export it.
    """
    loadings = loading_lines(network)
    sections = (
        _head(loadings),
        f"# {network.name}\n\n{_introduction(network, origin)}",
        section("Network", table(("", ""), _network_rows(network, identity))),
        section("Use", _use(network, loadings, agreement)),
        *(section("Teacher", _facts(teacher)) for teacher in origin.teachers),
        section("Images", _facts(_images(origin))),
        section("Method", _facts(origin.settings)),
        section("Scores", _scores(origin.scores)),
        section("Versions", _versions(origin.versions, versions)),
        section("Citation", "\n".join(f"- {citation}" for citation in _citations(network, origin))),
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def _head(loadings: Sequence[Loading]) -> str:
    lines = (
        "---",
        f"library_name: {loadings[0].library}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in dict.fromkeys((*TAGS, *(loading.library for loading in loadings)))),
        "# license: not known to the exporter; the licences of the teacher's weights and of the images decide",
        "---",
    )
    return "\n".join(lines)


def _introduction(network: Network, origin: Origin) -> str:
    what = f"A {network.architecture} without its classifier: images in, {network.feature_dim} features out."
    if origin.teachers:
        named = [f"`{teacher.get('name')}` (a {teacher.get('architecture')})" for teacher in origin.teachers]
        plural = "s" if len(named) > 1 else ""
        return (
            f"{what} It was distilled from the teacher{plural} {' and '.join(named)} by the objective "
            f"{origin.settings.get('objective')}."
        )
    if "method" in origin.settings:
        return f"{what} It was trained by {origin.settings['method']}."
    if network.name in TEACHERS:
        return f"{what} It is the published teacher {network.name}."
    return f"{what} How it was trained is not recorded in what it was exported from."


def _network_rows(network: Network, identity: Mapping[str, Any]) -> list[tuple[str, Any]]:
    wants = network.preprocessing
    return [
        ("architecture", network.architecture),
        ("parameters", f"{sum(parameter.numel() for parameter in network.module.parameters()):,}"),
        ("features", network.feature_dim),
        ("feature layer", identity.get("feature_layer", "")),
        ("image", f"short side {wants.resize}, centre crop {wants.size}, {wants.interpolation}, antialiased"),
        ("mean", f"{list(wants.mean)}, of RGB in [0, 1]"),
        ("deviation", list(wants.std)),
        ("SHA-256 of the weights", identity["weights_sha256"]),
        *([("read from a file", identity["checkpoint"])] if "checkpoint" in identity else []),
    ]


def _use(network: Network, loadings: Sequence[Loading], agreement: Agreement | None) -> str:
    wants = network.preprocessing
    images = (
        "Images as the network was evaluated on, `(N, 3, S, S)` in [0, 1]:",
        python(
            "import torch\n"
            "from PIL import Image\n"
            "from torchvision.transforms import InterpolationMode, v2\n\n"
            "prepare = v2.Compose([\n"
            f"    v2.Resize({wants.resize}, InterpolationMode.{wants.interpolation.upper()}),\n"
            f"    v2.CenterCrop({wants.size}),\n"
            "    v2.ToImage(),\n"
            "    v2.ToDtype(torch.float32, scale=True),\n"
            "])\n"
            'images = torch.stack([prepare(Image.open("photograph.jpg").convert("RGB"))])'
        ),
    )
    networks = (
        f"The network, with {loading.library} alone:\n\n{python(f'{loading.code}{chr(10)}network.eval()')}"
        for loading in loadings
    )
    features = (
        f"Features `(N, {network.feature_dim})`:",
        python(
            f"normalised = v2.functional.normalize(images, {list(wants.mean)}, {list(wants.std)})\n"
            "with torch.inference_mode():\n"
            "    features = network(normalised)"
        ),
    )
    return "\n\n".join((*images, *networks, *features, *_onnx(agreement)))


def _onnx(agreement: Agreement | None) -> tuple[str, ...]:
    if agreement is None:
        return ()
    says = (
        f"`{ONNX_FILE}` takes any number of images in [0, 1] and normalises them itself. On {agreement.images} photographs "
        f"its features differed from PyTorch's by at most {agreement.relative:.1e} of the largest feature (allowed: "
        f"{TOLERANCE:.0e})."
    )
    code = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{ONNX_FILE}", providers=["CPUExecutionProvider"])\n'
        '(features,) = session.run(["features"], {"images": images.numpy()})'
    )
    return says, python(code)


def _images(origin: Origin) -> dict[str, Any]:
    """The data set, and the random views of it that the teacher saw."""
    if len(origin.views) < 2:
        return origin.data_set
    seen = {"random views": len(origin.views) - 1, "pixels of a side": origin.views[1]["size"]}
    return {**origin.data_set, **seen, "policy": origin.views[1]["policy"]}


def _scores(scores: Iterable[Score]) -> str:
    rows = [(*score[:-1], f"{score.percent:.1f}") for score in scores]
    return table(("network", "evaluation", "data set", "splits", "score", "percent"), rows) if rows else ""


def _versions(of_the_run: Mapping[str, str], of_the_export: Mapping[str, str]) -> str:
    rows = (("trained", of_the_run), ("exported", of_the_export))
    return "\n".join(
        f"- {when} with {', '.join(f'{name} {version}' for name, version in versions.items())}"
        for when, versions in rows
        if versions
    )


def _citations(network: Network, origin: Origin) -> list[str]:
    names = dict.fromkeys((network.name, *(teacher.get("name") for teacher in origin.teachers)))
    teachers = [TEACHERS[name].citation for name in names if name in TEACHERS]
    return [COMPRESS, *teachers] if str(origin.settings.get("objective", "")).startswith("compress") else teachers


def _facts(facts: Mapping[str, Any]) -> str:
    first = {name: facts[name] for name in ("name", "architecture", "objective") if name in facts}
    return markdown.facts({**first, **facts})
