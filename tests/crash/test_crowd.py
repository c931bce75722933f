"""P5 and P9, by many at the same time. `make soak` has them at it for a minute and more."""

import os
from pathlib import Path

import pytest

from tests.crash.crowd import crowd

SECONDS = float(os.environ.get("BOX_SOAK_SECONDS", "8"))


@pytest.mark.needs("root", "overlay", "cgroup")
def test_eight_builders_beside_two_collectors_lose_nothing_and_build_the_same(top: Path) -> None:
    report = crowd(str(top / "store"), SECONDS)
    assert report.damaged == ()
    assert len(report.digests) == 1
    assert report.builds > 20
    assert report.collections > 5
    assert report.deleted > 5
    assert report.checks > 2
