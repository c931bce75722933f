"""`box-runtime`: the executable that container engines call."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Answer one call; the exit status."""
    from boxcli.release import RELEASE, SPEC

    if list(argv) in (["--version"], ["-v"]):
        print(f"box-runtime version {RELEASE}\nspec: {SPEC}", flush=True)
        return 0
    said = " ".join(argv[:1]) or "a command"
    print(f"box-runtime: not yet: {said} (only --version is answered in this release)", file=sys.stderr, flush=True)
    return 1
