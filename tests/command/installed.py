"""The installed `box`, as a user types it."""

import os
import subprocess
import sys
from collections.abc import Callable

BOX = os.path.join(os.path.dirname(sys.executable), "box")

Done = subprocess.CompletedProcess[str]
Box = Callable[..., Done]


def run(
    *arguments: str | os.PathLike[str],
    status: int | None = 0,
    stdin: str = "",
    cwd: str | os.PathLike[str] | None = None,
    **environment: str,
) -> Done:
    """Run `box ARGUMENTS`; `status` is what it must end with (None: whatever)."""
    done = subprocess.run(
        [BOX, *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert status is None or done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    assert "this is a bug in box" not in done.stderr, done.stderr
    return done
