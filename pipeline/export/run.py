"""Stage ``export``: load a network and its record, then write weights, ONNX file and model card to one folder."""

import contextlib
import importlib.metadata
from typing import Any

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import require_extra
from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.export.card import model_card
from compress_ssl.pipeline.export.folder import CARD_FILE, ONNX_FILE, check_export_folder, new_folder, write_manifest
from compress_ssl.pipeline.export.onnx import write_onnx
from compress_ssl.pipeline.export.origin import read_origin
from compress_ssl.pipeline.export.settings import ExportSettings
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage.places.durable import write_durably


def export(settings: ExportSettings) -> dict[str, Any]:
    """Export a network.

    Returns:
        manifest: The content of ``export.json``: the network's identity, each file's size and SHA-256, the difference
            of the ONNX file's features from torch's, library versions.

    Raises:
        InputError: If the network cannot be used, ``out`` is taken, or the network cannot be written as ONNX.
        RunError: If the features of the ONNX file differ from torch's.
    """
    check_export_folder(settings.out, settings.overwrite)
    if settings.onnx:
        require_extra("ONNX, which --no-onnx leaves out,", "onnx", "onnxscript", "onnxruntime", extra="export")
    network = load_network(settings.run)
    network.module.eval()
    identity = network.identity()
    origin = read_origin(settings.run, identity["weights_sha256"])
    versions = library_versions()
    for name in ("safetensors", "timm", "onnx", "onnxruntime"):  # besides the libraries of every stage
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    with new_folder(settings.out) as folder:
        save_network(folder / MODEL_FILE, network)
        agreement = write_onnx(network, folder / ONNX_FILE) if settings.onnx else None
        card = model_card(network, identity, origin, agreement, versions)
        write_durably(folder / CARD_FILE, card.encode())
        facts = {
            "network": {"name": network.name, **identity},
            "onnx": None if agreement is None else {**agreement._asdict(), "relative_difference": agreement.relative},
            "versions": versions,
        }
        return write_manifest(folder, facts)
