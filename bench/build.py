"""The same six steps built by box, by docker's BuildKit and by buildah: all cached, with one file changed, and anew."""

import itertools
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping

from bench import tables
from bench.place import Place, run, say
from bench.timing import ENVIRONMENT, Contestant, Failed, Result, paired, process

ROUNDS = 11
_FILES, _LARGE = 2000, 50_000_000
_OURS = "box build"
_BUILDKIT, _BUILDAH = "docker BuildKit", "buildah build"

_BOXFILE = """\
box: 1
name: built
base: {image}
steps:
  - env: {{STAGE: bench, COLOUR: "no"}}
  - copy: files/ -> /srv/files
  - copy: large.bin -> /srv/large.bin
  - run: cat /srv/files/d0/f0 > /srv/first
  - {written}
  - label: {{org.example.bench: "yes"}}
"""
_WRITE = 'write: {to: /etc/motd, text: "hello\\n"}'
_DOCKERFILE = """\
FROM {image}
ENV STAGE=bench COLOUR=no
COPY files/ /srv/files
COPY large.bin /srv/large.bin
RUN cat /srv/files/d0/f0 > /srv/first
COPY motd /etc/motd
LABEL org.example.bench=yes
"""


def measure(place: Place, rounds: int) -> Iterator[str]:
    """Three tables; only the first has goals here."""
    context = f"{place.scratch}/context"
    if not os.path.exists(context):
        make_context(context, place.image)
    plain, anew, missing = _builders(place, context)
    prune = _pruning(place)
    changes = itertools.count()

    def change() -> None:
        with open(f"{context}/files/d7/f7", "w") as file:
            file.write(f"change {next(changes)}\n")

    say("building from nothing")
    cold = paired(
        [
            Contestant(name, process(argv, environment), prune.get(name, lambda: None))
            for name, (argv, environment) in anew.items()
        ],
        max(rounds // 4, 2),
        warm_up=1,
    )
    say("building with everything cached")
    cached = paired([Contestant(name, process(argv, environment)) for name, (argv, environment) in plain.items()], rounds)
    say("building with one file changed")
    changed = paired(
        [Contestant(name, process(argv, environment), change) for name, (argv, environment) in plain.items()],
        max(rounds // 2, 2),
        warm_up=1,
    )
    steps = f"env, copy of {_FILES} files, copy of {_LARGE // 1_000_000} MB, run, write, label"
    goals = {_BUILDKIT: 1.0, _BUILDAH: 0.2}
    yield tables.comparison(f"build, cached: {steps}", _OURS, cached | missing, goals)
    yield tables.comparison("build, one of the files changed", _OURS, changed | missing, {})
    yield tables.comparison(
        "build, anew (box and buildah: --no-cache; docker: after `builder prune --all`)", _OURS, cold | missing, {}
    )


def make_context(directory: str, image: str) -> None:
    """The files to copy, a Boxfile and a Dockerfile of the same steps."""
    os.makedirs(directory)
    source = random.Random(7)
    for number in range(_FILES):
        path = f"{directory}/files/d{number // 100}/f{number % 100}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(source.randbytes(source.randrange(200, 8000)))
    with open(f"{directory}/large.bin", "wb") as file:
        file.write(source.randbytes(_LARGE))
    for name, text in (
        ("motd", "hello\n"),
        ("Boxfile", _BOXFILE.format(image=image, written=_WRITE)),
        ("Dockerfile", _DOCKERFILE.format(image=image)),
    ):
        with open(f"{directory}/{name}", "w") as file:
            file.write(text)


Commands = dict[str, tuple[list[str], Mapping[str, str]]]


def _builders(place: Place, context: str) -> tuple[Commands, Commands, dict[str, Result]]:
    """The command line and environment of each builder, with its cache and without; and who is missing."""
    plain: Commands = {_OURS: (place.box("build", "-q", context), ENVIRONMENT)}
    anew: Commands = {_OURS: (place.box("build", "-q", "--no-cache", context), ENVIRONMENT)}
    missing: dict[str, Result] = {}
    try:
        buildkit = {**ENVIRONMENT, "DOCKER_BUILDKIT": "1"}
        argv = place.docker.command("build", "-q", "--network", "none", "-t", "built", context)
        plain[_BUILDKIT] = anew[_BUILDKIT] = (argv, buildkit)
    except Failed as reason:
        missing[_BUILDKIT] = reason
    try:
        # buildah takes the runtime that works for podman; its network takes one that the machine may not have.
        options = ("--quiet", "--layers", "--network", "none", "--ulimit", "nofile=1024:1024", "--tag", "built")
        runtime = ("--runtime", place.podman.runtime)
        run(place.podman.buildah("--version"))
        plain[_BUILDAH] = (place.podman.buildah("build", *runtime, *options, context), ENVIRONMENT)
        anew[_BUILDAH] = (place.podman.buildah("build", *runtime, *options, "--no-cache", context), ENVIRONMENT)
    except Failed as reason:
        missing[_BUILDAH] = reason
    return plain, anew, missing


def _pruning(place: Place) -> dict[str, Callable[[], object]]:
    def prune() -> None:
        subprocess.run(place.docker.command("builder", "prune", "--all", "--force"), capture_output=True, check=True)

    return {_BUILDKIT: prune}
