"""Owners as a Boxfile writes them, looked up in the image's own /etc/passwd and /etc/group."""

from builder.view import View
from runtime.users import resolve
from store.errors import BuildError, RunError


def resolve_owner(view: View, text: str | None) -> tuple[int, int]:
    """uid and gid of `user`, `user:group` or numbers; root's where nothing is said.

    A user without a group brings that of the image's passwd; a number that is not there is its own group, as in docker's COPY.
    """
    if not text:
        return 0, 0
    try:
        user = resolve(view.root, text)
    except RunError as err:
        raise BuildError(err.message, hint=err.hint) from err
    return user.uid, user.gid if user.name or ":" in text else user.uid
