"""Bundles, for the tests of box-runtime."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.bundles import Bundles, make_rootfs, traceless


@pytest.fixture(scope="session")
def _rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def bundles(tmp_path: Path, _rootfs: Path) -> Iterator[Bundles]:
    """Bundles whose containers leave nothing behind."""
    made = Bundles(tmp_path, _rootfs)
    with traceless(made):
        yield made
