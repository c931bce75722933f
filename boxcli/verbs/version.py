"""`box version`: which box this is, and on what."""

from __future__ import annotations

import os
import sys

from boxcli.release import RELEASE, SPEC
from boxcli.table import Option, Values, Verb

VERB = Verb(
    "version", "Show the version of box", Option("--format", metavar="json|TEMPLATE", about="Print 'json' or a template.")
)


def main(values: Values) -> int:
    """Print it."""
    system = os.uname()
    facts = {
        "Version": RELEASE,
        "RuntimeSpec": SPEC,
        "Python": ".".join(map(str, sys.version_info[:3])),
        "Kernel": system.release,
        "Arch": system.machine,
    }
    if values.text("format"):
        from boxcli.templates import compile_format

        print(compile_format(values.text("format"))(facts))
        return 0
    print(f"box version {RELEASE}")
    print(f"OCI runtime specification {SPEC}, Python {facts['Python']}, Linux {system.release} {system.machine}")
    return 0
