"""Small networks to export."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from compress_ssl.pipeline.networks.network import Network, load_network


@pytest.fixture(scope="session")
def network_of() -> Callable[[str, int], Network]:
    """Make a network of an architecture: untrained, in evaluation mode, for images of ``size`` pixels.

    A pool after the name is taken, for images that are squashed to squares.
    """

    def make(architecture: str, size: int) -> Network:
        architecture, _, pool = architecture.partition(" ")
        network = load_network(f"random/{architecture}", seed=3, pool=pool or "own")
        network.module.eval()
        wants = replace(network.preprocessing, size=size, resize=size + size // 8, squash=bool(pool))
        return replace(network, preprocessing=wants)

    return make
