"""The plan: what a Boxfile says, as frozen values with their places. Making one has no effect on the world."""

from __future__ import annotations

from boxfile.source import Place
from store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    Pairs = tuple[tuple[str, str], ...]

SHELL = ("/bin/sh", "-e", "-c")
"""What a command written as a string is handed to."""


class TarballBase(Record):
    """A root file system in a tarball; `path` is relative to the context and starts with './'."""

    at: Place
    path: str


class ScratchBase(Record):
    """An empty root file system."""

    at: Place


class HostBase(Record):
    """Programs of this machine (names looked up in PATH, or absolute paths) with the libraries they need."""

    at: Place
    programs: tuple[str, ...]


class ImageBase(Record):
    """An image by its reference."""

    at: Place
    reference: str


class Step(Record):
    """One step: `at` is its place, `text` its one-line form as the user wrote it, for people to read."""

    at: Place
    text: str


class RunStep(Step):
    """A command run in the image. A string is the last argument of `shell`; a tuple is executed as it is and has no shell."""

    command: str | tuple[str, ...]
    shell: tuple[str, ...] | None = None
    env: Pairs = ()
    workdir: str | None = None
    user: str | None = None
    network: Literal["default", "none", "host"] = "default"

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments to execute."""
        return (*(self.shell or SHELL), self.command) if isinstance(self.command, str) else self.command


class CopyStep(Step):
    """Files of the context (`sources`, relative to it) copied to `to`; a `to` that ends with '/' is a directory."""

    sources: tuple[str, ...]
    to: str
    owner: str | None = None
    mode: int | None = None
    exclude: tuple[str, ...] = ()


class WriteStep(Step):
    """A file with this content."""

    to: str
    content: str
    owner: str | None = None
    mode: int = 0o644


class MkdirStep(Step):
    """A directory, and its parents when missing."""

    path: str
    owner: str | None = None
    mode: int = 0o755


class SymlinkStep(Step):
    """A symbolic link at `path` to `target`, which is not looked at."""

    path: str
    target: str


class RemoveStep(Step):
    """Whatever these absolute patterns match is removed; '**' crosses directories."""

    patterns: tuple[str, ...]


class EnvStep(Step):
    """Variables for the later run steps and the image's config."""

    values: Pairs


class WorkdirStep(Step):
    """The directory of the later run steps and the image's config; made when missing."""

    path: str


class UserStep(Step):
    """The user of the later run steps and the image's config: NAME, UID, or either with :GROUP or :GID."""

    user: str


class LabelStep(Step):
    """Labels of the image's config."""

    labels: Pairs


class Healthcheck(Record):
    """How a container is asked whether it is well; times in nanoseconds, None where nothing was said."""

    at: Place
    command: str | tuple[str, ...]
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class Config(Record):
    """What a container of the image gets; where it says nothing, the base's holds. `reset`: fields of the base to drop first."""

    at: Place
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: Pairs = ()
    workdir: str | None = None
    user: str | None = None
    expose: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Pairs = ()
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    reset: tuple[str, ...] = ()


class Plan(Record):
    """A whole Boxfile: `args` are resolved and already put in place everywhere."""

    path: str
    version: int
    name: str | None
    args: Mapping[str, str]
    base: Base
    steps: tuple[Step, ...]
    config: Config | None


Base = TarballBase | ScratchBase | HostBase | ImageBase
