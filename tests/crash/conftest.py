"""Where the stores lie that are killed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scenes import quick


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    made = quick(tmp_path)
    yield made
    if made != tmp_path:
        shutil.rmtree(made)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")
