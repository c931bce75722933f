"""A store for each test."""

from pathlib import Path

import pytest

from store.layout import Store


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def store(root: str) -> Store:
    return Store.open(root)
