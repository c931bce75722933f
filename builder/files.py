"""The steps that change files without running anything: each decides a `Changeset` against the view below it."""

from builder import copying, patterns
from builder.changeset import Changeset, Node
from builder.inputs import Context, shown
from builder.owners import resolve_owner
from builder.view import View
from store.errors import BuildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import CopyStep, MkdirStep, RemoveStep, SymlinkStep, WorkdirStep, WriteStep


def inside(path: str) -> bytes:
    """An absolute path of the Boxfile as one from the image's root, without a leading slash."""
    return path.lstrip("/").encode("utf-8", "surrogateescape")


def copy(step: "CopyStep", selection: copying.Selection, context: Context, view: View) -> Changeset:
    """Files of the context, as `copying` says."""
    changes = Changeset(view)
    copying.apply(step, selection, inside(step.to), resolve_owner(view, step.owner), context, changes)
    return changes


def write(step: "WriteStep", view: View) -> Changeset:
    """One file with the step's text; a symlink at its place is followed, as a shell's `>` would."""
    changes = Changeset(view)
    content = step.content.encode("utf-8", "surrogateescape")
    path = view.resolve(inside(step.to))
    changes.put(path, Node("file", step.mode, *resolve_owner(view, step.owner), content=content))
    return changes


def mkdir(step: "MkdirStep", view: View) -> Changeset:
    """A directory with this mode and owner, whether it was there or not; missing parents are root's 0755."""
    changes = Changeset(view)
    owner = None if step.owner is None else resolve_owner(view, step.owner)
    path = view.resolve(inside(step.path))
    if not path:
        raise BuildError("the root directory is always there", hint="its mode and owner come with the base")
    changes.own_directory(path, step.mode, owner)
    return changes


def workdir(step: "WorkdirStep", view: View) -> Changeset:
    """The directory, if it is not there yet."""
    changes = Changeset(view)
    changes.directory(view.resolve(inside(step.path)))
    return changes


def symlink(step: "SymlinkStep", view: View) -> Changeset:
    """A symbolic link, in place of the file or link that has its name."""
    changes = Changeset(view)
    target = step.target.encode("utf-8", "surrogateescape")
    path = view.resolve(inside(step.path.rstrip("/")), last=False)
    if not path:
        raise BuildError("the root directory cannot become a symbolic link")
    changes.put(path, Node("symlink", 0o777, target=target))
    return changes


def remove(step: "RemoveStep", view: View) -> Changeset:
    """Everything that the patterns match in the image; a name without a pattern must be there."""
    changes = Changeset(view)
    for pattern in step.patterns:
        prefix, rest = patterns.split(pattern)
        start = b"/".join(patterns.unescaped(name) for name in prefix)
        for path in patterns.below(view.resolve(start), rest, view.listing) if rest else [_existing(pattern, start, view)]:
            changes.remove(path)
    return changes


def _existing(pattern: str, path: bytes, view: View) -> bytes:
    real = view.resolve(path, last=False)
    if not real:
        raise BuildError("the root directory cannot be removed", hint="to empty it, write /**")
    if view.status(real) is None:
        raise BuildError(
            f"/{shown(path)} is not in the image, so it cannot be removed", hint=f"{pattern}* would remove it if it is there"
        )
    return real
