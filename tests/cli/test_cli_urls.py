"""URLs in place of paths, and URLs with passwords: refused by every command, in a sentence without the secret."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.recipe.file import read_recipe
from compress_ssl.storage import StoreError, location
from tests.servers import SECRET

PATHS = (
    ("pretrain", "data", "URL"),
    ("embed", "data", "URL", "--teacher", "random/resnet18"),
    ("embed", "URL", "store.zarr", "--teacher", "random/resnet18"),
    ("embed", "data", "store.zarr", "--teacher", "random/resnet18", "--labels", "URL"),
    ("distill", "store.zarr", "data", "URL", "--student", "resnet18"),
    ("evaluate", "knn", "model", "--output", "URL"),
    ("export", "model", "URL"),
    ("pack", "data", "URL"),
    ("store", "export", "store.zarr", "--to", "URL"),
    ("store", "card", "store.zarr", "--output", "URL"),
    ("store", "copy", "store.zarr", "URL"),
    ("store", "list", "URL"),
    ("store", "import", "file.npy", "URL", "--data", "data", "--teacher", "mine"),
    ("run", "photographs", "--data", "URL"),
    ("chain", "--data", "data", "--folder", "URL", "embed", "--teacher", "random/resnet18"),
    ("quickstart", "--folder", "URL"),
)  # commands with the place of a path or a store
OTHERS = (
    ("embed", "data", "store.zarr", "--teacher", "URL"),
    ("embed", "data", "store.zarr", "--teacher", "random/resnet18", "--limit", "URL"),
    ("store", "import", "train=URL", "store.zarr", "--data", "data", "--teacher", "mine"),
    ("store", "info", "store.zarr", "URL"),
    ("store", "info", "--where=URL"),
    ("run", "URL"),
    ("models", "URL"),
    ("URL",),
)  # other places that a URL can come to


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command with a URL in an empty folder, which stays so."""
    monkeypatch.chdir(tmp_path)

    def call(words: tuple[str, ...], url: str) -> Result:
        result = CliRunner().invoke(main, [word.replace("URL", url) for word in words])
        assert (result.exit_code, list(tmp_path.iterdir())) == (2, []), result.output
        return result

    return call


@pytest.mark.parametrize("words", PATHS + OTHERS, ids=" ".join)
def test_password_in_a_url_is_not_repeated(call: Callable[..., Result], words: tuple[str, ...]) -> None:
    for url in ("https://me:{}@host/x", "HTTPS:/me:{}@host/x", "https:me:{}@host/x", "s3://b/x?X-Amz-Signature={}"):
        output = call(words, url.format(SECRET)).output
        assert "given with a password, a signature or other settings" in output
        assert SECRET not in output


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_url_with_a_missing_slash_makes_no_folder(call: Callable[..., Result], words: tuple[str, ...]) -> None:
    for url in ("s3:/bucket/x", "S3:bucket/x", "file:/x"):
        output = " ".join(call(words, url).output.split())
        assert f"'{url}' is a URL; give a path" in output or f"'{url}' is no place for a store" in output


@pytest.mark.parametrize("line", ["folder = 'URL'\ndata = 'd'", "folder = 'f'\ndata = 'URL'"])
def test_secret_in_a_recipe_is_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(line.replace("URL", f"https:/me:{SECRET}@host/x"))
    with pytest.raises(InputError, match="given with a password") as raised:
        read_recipe(str(file))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("text", ["https://me:P/{}@h/x", "https://me:P {}'@h/x", "ftp:me:{}@h/x", " https:/me:{}@h/x"])
def test_odd_secrets_are_not_repeated(text: str) -> None:
    with pytest.raises(StoreError, match="h/x") as raised:
        location(text.format(SECRET))
    assert SECRET not in str(raised.value)
