"""Files of tensors say when a bit has changed, and are the same bytes for the same tensors."""

import io
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.tensor_files import CHECKSUM, check_archive, check_safetensors, safetensors_bytes
from compress_ssl.pipeline.networks.network import load_network, save_network

TENSORS = {"weight": torch.arange(12.0).view(3, 4).t(), "bias": torch.tensor([1, 2])}


def test_equal_networks_are_equal_files_which_anybody_can_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    contents = set()
    for _ in range(20):
        network = load_network("random/conv4-16")
        save_network(path, network)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    read = load(contents.pop())
    assert all(torch.equal(tensor, read[name]) for name, tensor in network.module.state_dict().items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata().keys() == {"format", "compress_ssl", CHECKSUM}


def test_flipped_bits_of_safetensors_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    whole = bytes(safetensors_bytes(TENSORS, {"training": "of zeros " + 64 * "0"}))
    without_notice = set()
    for bit in range(0, 8 * len(whole), 9):
        path.write_bytes(flipped(whole, bit))
        try:
            with safe_open(path, framework="pt") as file:
                check_safetensors(path, file.metadata() or {})
            without_notice.add(bit // 8)
        except (SafetensorError, ValueError):
            pass
    name = whole.index(CHECKSUM.encode())  # under another name it is no checksum; the rest is whole
    assert without_notice <= {*range(name, name + len(CHECKSUM))}
    path.write_bytes(whole)
    check_safetensors(path, {CHECKSUM: whole[name + len(CHECKSUM) + 3 :][:64].decode()})


def test_flipped_bits_of_an_archive_are_noticed_or_change_nothing() -> None:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer)
    whole, noticed = buffer.getvalue(), 0
    directory = 8 * whole.index(b"PK\1\2")
    for bit in (*range(0, directory, 9), *range(directory, 8 * len(whole))):
        damaged = io.BytesIO(flipped(whole, bit))
        try:
            check_archive(damaged)
            damaged.seek(0)
            read = torch.load(damaged, weights_only=True)
        except (ValueError, RuntimeError):
            noticed += 1
        else:
            assert all(torch.equal(tensor, read[name]) for name, tensor in TENSORS.items())
    assert noticed > len(whole)  # most of the rest pads the records to 64 bytes


def test_a_flipped_bit_in_a_checkpoint_of_another_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 8 * whole.index(bytes(4000)) + 8000))
    with pytest.raises(InputError, match=r"weights\.pth' is damaged, .*Bad CRC-32"):
        load_network(f"resnet18:{path}")


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_networks_with_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    network = load_network("random/conv4-16")
    network.module.state_dict()[name].view(-1)[-1] = value
    save_network(tmp_path / "own.safetensors", network)
    save_file(network.module.state_dict(), tmp_path / "foreign.safetensors")
    for reference in ("{}/own.safetensors", "conv4-16:{}/foreign.safetensors"):
        with pytest.raises(InputError, match=rf"weights '{name}' in '.*\.safetensors' are not finite"):
            load_network(reference.format(tmp_path))


def flipped(whole: bytes, bit: int) -> bytes:
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
