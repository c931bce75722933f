"""Every error that box raises on purpose, as one tree.

    BoxError                          message, hint
    |- UsageError                     the command line is wrong (exit status 2)
    |- BoxfileError                   path, line, column, source line (exit status 2)
    |- BuildError                     step
    |  '- StepFailed                  exit_status, log_path
    |- StoreError
    |  |- BlobMissing                 digest
    |  |- BlobCorrupt                 digest, actual
    |  |- ReferenceMissing            reference
    |  |- StoreMissing                root
    |  |- NotAnImage                  another tool's artifact
    |  |- FormatTooNew                the store was written by a newer box
    |  |- ArchiveError                a tar that cannot be believed
    |  '- RegistryError
    '- RunError
       |- ContainerMissing            name
       |- VolumeMissing               name
       |- SetupFailed                 action, errno, path
       |- CommandNotFound             command (exit status 127)
       '- CommandNotExecutable        command (exit status 126)

A message is the fact: lower case, no full stop. A hint is what to do next. They are raised where the fact is known and printed at
one place, `boxcli`. This module is on the hot path of `box run`, so it imports nothing.
"""


class BoxError(Exception):
    """The root: something a user can understand went wrong; `exit_status` is what the command leaves with."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BoxError):
    """The command line asks for something that makes no sense."""

    exit_status = 2


class BoxfileError(BoxError):
    """A mistake in a Boxfile at `path:line:column` (both counted from 1); `source` is the line's text. `others` are more."""

    exit_status = 2

    def __init__(
        self, message: str, *, path: str, line: int, column: int, source: str = "", width: int = 1, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.line = line
        self.column = column
        self.source = source
        self.width = width
        self.others: list[BoxfileError] = []


class BuildError(BoxError):
    """A build stopped; `step` names the step as the user wrote it, with its place. `place` says the same with the step's line."""

    def __init__(self, message: str, *, step: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.place: BoxfileError | None = None


class StepFailed(BuildError):
    """A run step's command ended badly; the whole output is kept at `log_path`."""

    def __init__(self, message: str, *, step: str, exit_status: int, log_path: str, tail: str = "", hint: str = "") -> None:
        super().__init__(message, step=step, hint=hint)
        self.command_status = exit_status
        self.log_path = log_path
        self.tail = tail


class StoreError(BoxError):
    """The store cannot do what was asked."""


class BlobMissing(StoreError):
    """No blob has this digest."""

    def __init__(self, digest: str, *, hint: str = "") -> None:
        super().__init__(f"blob {digest} is not in the store", hint=hint)
        self.digest = digest


class BlobCorrupt(StoreError):
    """A blob's bytes do not match its digest; they were not used."""

    def __init__(self, digest: str, actual: str, *, where: str = "", hint: str = "") -> None:
        place = f" ({where})" if where else ""
        super().__init__(f"blob {digest} is damaged: its bytes are {actual}{place}", hint=hint)
        self.digest = digest
        self.actual = actual


class ReferenceMissing(StoreError):
    """No image has this name, digest or id prefix."""

    def __init__(self, reference: str, *, hint: str = "") -> None:
        super().__init__(f"no image named {reference!r}", hint=hint)
        self.reference = reference


class StoreMissing(StoreError):
    """There is no store at `root`, and the command makes none."""

    def __init__(self, root: str) -> None:
        super().__init__(f"there is no store at {root} yet", hint="`box build`, `box load` or `box import` makes one")
        self.root = root


class NotAnImage(StoreError):
    """A manifest, as whole as can be, of something else than a container image for this machine."""


class FormatTooNew(StoreError):
    """The store was written by a newer box; nothing in it was touched."""


class ArchiveError(StoreError):
    """A tar, or an image archive, that cannot be believed; nothing of it was kept."""


class RegistryError(StoreError):
    """A registry said no, or said something that cannot be believed."""


class RunError(BoxError):
    """A container could not be run."""

    exit_status = 125


class ContainerMissing(RunError):
    """No container has this name or id prefix."""

    exit_status = 1

    def __init__(self, name: str, *, hint: str = "") -> None:
        super().__init__(f"no container named {name!r}", hint=hint)
        self.name = name


class VolumeMissing(RunError):
    """No volume has this name."""

    exit_status = 1

    def __init__(self, name: str, *, hint: str = "") -> None:
        super().__init__(f"no volume named {name!r}", hint=hint)
        self.name = name


class SetupFailed(RunError):
    """A step of a container's set-up failed: `action` is the call as it was made, `errno` its answer. `message` says it better
    where it is known what it means."""

    def __init__(self, action: str, errno: int, reason: str, *, path: str = "", hint: str = "", message: str = "") -> None:
        at = f" at {path}" if path else ""
        super().__init__(message or f"{action}{at}: {reason}", hint=hint)
        self.action = action
        self.errno = errno
        self.path = path


class CommandNotFound(RunError):
    """The image has no such program."""

    exit_status = 127

    def __init__(self, command: str, *, hint: str = "") -> None:
        super().__init__(f"command not found: {command}", hint=hint)
        self.command = command


class CommandNotExecutable(RunError):
    """The program is there and cannot be executed."""

    exit_status = 126

    def __init__(self, command: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot execute {command}: {reason}", hint=hint)
        self.command = command
