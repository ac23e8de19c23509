"""A recipe that has run."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.recipe.tiny_recipe import STEPS, run, write_images


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run; read it, never change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "images")
    decisions = run(folder)
    assert list(decisions) == STEPS
    assert set(decisions.values()) == {("run", "not run before")}
    return folder


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy to do as one likes with. That it lies elsewhere than where it was made puts nothing out of date."""
    return Path(shutil.copytree(finished, tmp_path / "work"))
