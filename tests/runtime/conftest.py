"""Containers by the library's doors."""

from collections.abc import Iterator

import pytest

from tests import containers
from tests.containers import Site


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return containers.make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(_site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A store with an image, of which nothing but the image is left when the test is over."""
    monkeypatch.setenv("BOX_ROOT", _site.root)
    with containers.traceless(_site):
        yield _site
