"""Builds CONTEXT/Boxfile into the store ROOT and writes the image's digest: a build as a process of its own, to be killed."""

import sys
from pathlib import Path

import boxfile
from builder.build import build
from builder.progress import Silent
from store.layout import Store


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Aloud(Silent):
    """Says where the build is, for whoever wants to kill it there."""

    def step_missed(self, number: int, reason: str) -> None:
        say(f"missed {number}")

    def output(self, number: int, line: str) -> None:
        say(f"output {line}")


def main() -> None:
    context, root = sys.argv[1:3]
    path = Path(context) / "Boxfile"
    plan = boxfile.parse(path.read_text(encoding="utf-8"), path=str(path))
    built = build(Store.open(root), plan, context=context, progress=Aloud())
    say(f"built {built.descriptor.digest}")


if __name__ == "__main__":
    main()
