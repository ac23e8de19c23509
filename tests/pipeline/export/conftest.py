"""Small networks, exported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.export.run import export
from compress_ssl.pipeline.export.settings import ExportSettings
from compress_ssl.pipeline.networks.network import Network, load_network, save_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

Exported = Callable[..., Path]


def network_of(architecture: str, size: int) -> Network:
    """Untrained, in evaluation mode, for images of ``size`` pixels."""
    network = load_network(f"random/{architecture}", seed=3)
    network.module.eval()
    return replace(network, preprocessing=Preprocessing(size=size, resize=size + size // 8))


@pytest.fixture(name="network_of", scope="session")
def network_of_fixture() -> Callable[[str, int], Network]:
    return network_of


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export an untrained network once, from the file of a run; read the folder, never change it."""
    folder = tmp_path_factory.mktemp("exported")

    def make(architecture: str, size: int) -> Path:
        name = architecture.replace("/", "-")
        out = folder / "exported" / name
        if not out.exists():
            save_network(folder / name / MODEL_FILE, network_of(architecture, size))
            export(ExportSettings(run=str(folder / name), out=out))
        return out

    return make
