"""Small networks to export."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from compress_ssl.pipeline.networks.network import Network, load_network


@pytest.fixture(scope="session")
def network_of() -> Callable[[str, int], Network]:
    """Make a network of an architecture: untrained, in evaluation mode, for images of ``size`` pixels."""

    def make(architecture: str, size: int) -> Network:
        network = load_network(f"random/{architecture}", seed=3)
        network.module.eval()
        return replace(network, preprocessing=replace(network.preprocessing, size=size, resize=size + size // 8))

    return make
