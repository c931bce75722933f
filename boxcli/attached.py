"""What `run`, `start` and `attach` share: a container that is started or met by somebody who is attached to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxcli import readers
from boxcli.table import Option, Values
from runtime.attaching import DETACH_KEYS, start_attached
from runtime.container import prepare

if TYPE_CHECKING:
    from runtime.spec import Outcome, Spec

KEYS = Option("--detach-keys", metavar="KEYS", read=readers.keys, about="What to type to leave it running (else ctrl-p,ctrl-q).")
SIG_PROXY = Option("--sig-proxy", metavar="true|false", read=readers.boolean, about="Pass signals on to it (else true).")


def run_attached(values: Values, spec: Spec) -> int:
    """Run it with this terminal as its own; it ends with this command, unless the user detaches from it."""
    outcome = start_attached(spec, prepare(spec), stdin=0, detach_keys=detach_keys(values), lifeline=True)
    return status_of(outcome)


def detach_keys(values: Values) -> bytes:
    """Those that were asked for, or docker's."""
    keys = values.one("detach_keys", bytes)
    return DETACH_KEYS if keys is None else keys


def proxied(values: Values) -> bool:
    """Whether signals are to be passed on."""
    return values.one("sig_proxy", bool) is not False


def status_of(outcome: Outcome | None) -> int:
    """The exit status of a command that was attached: the container's, or 0 for a user who has detached."""
    from boxcli.verbs.run import explain

    if outcome is None:
        return 0
    explain(outcome)
    return outcome.status
