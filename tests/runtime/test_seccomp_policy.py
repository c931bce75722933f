"""`linux.seccomp` as it is read: flags, a listener, and mistakes with their places."""

from typing import Any

import pytest

from runtime.seccomp_policy import FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE, read
from store.errors import RunError


def profile(*entries: object, default: str = "SCMP_ACT_ERRNO", **more: object) -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(entries), **more}


def allow(*names: str, **more: object) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, FLAG_SPEC_ALLOW),
        ([], 0),
        (["SECCOMP_FILTER_FLAG_TSYNC"], 0),
        (["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], FLAG_LOG | FLAG_SPEC_ALLOW),
        (["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], 0),
    ],
)
def test_flags(flags: list[str] | None, expected: int) -> None:
    assert read(profile(flags=flags)).flags == expected


def test_a_profile_that_notifies_has_a_listener() -> None:
    notifying = {"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}
    policy = read(
        profile(notifying, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], listenerPath="/run/agent", listenerMetadata="m")
    )
    assert policy.notifies() and policy.flags == FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE
    assert (policy.listener_path, policy.listener_metadata) == ("/run/agent", "m")
    assert not read(profile(listenerPath="/run/agent")).flags & FLAG_NEW_LISTENER


CONDITION = {"index": 0, "op": "SCMP_CMP_EQ", "value": 1}


@pytest.mark.parametrize(
    ("given_profile", "path"),
    [
        ([], "linux.seccomp"),
        ({}, "linux.seccomp.defaultAction"),
        (profile(default="ALLOW"), "linux.seccomp.defaultAction"),
        (profile(defaultErrnoRet=-1), "linux.seccomp.defaultErrnoRet"),
        (profile(defaultErrnoRet=4096), "linux.seccomp.defaultErrnoRet"),
        (profile(defaultErrnoRet=True), "linux.seccomp.defaultErrnoRet"),
        (profile(default="SCMP_ACT_KILL", defaultErrnoRet=1), "linux.seccomp.defaultErrnoRet"),
        (profile(architectures="SCMP_ARCH_X86"), "linux.seccomp.architectures"),
        (profile(architectures=["SCMP_ARCH_Z80"]), "linux.seccomp.architectures[0]"),
        (profile(flags=["SECCOMP_FILTER_FLAG_FAST"]), "linux.seccomp.flags[0]"),
        (profile(flags=[[]]), "linux.seccomp.flags[0]"),
        (profile(listenerPath=7), "linux.seccomp.listenerPath"),
        (profile(listenerPath="a\0b"), "linux.seccomp.listenerPath"),
        (profile(listenerMetadata="m"), "linux.seccomp.listenerMetadata"),
        (profile(allow("read", action="SCMP_ACT_NOTIFY")), "linux.seccomp.listenerPath"),
        (profile(allow("read", action="SCMP_ACT_NOTIFY"), listenerPath="agent"), "linux.seccomp.listenerPath"),
        (profile(allow("read"), allow()), "linux.seccomp.syscalls[1].names"),
        (profile(allow("")), "linux.seccomp.syscalls[0].names"),
        (profile({"names": [7], "action": "SCMP_ACT_ALLOW"}), "linux.seccomp.syscalls[0].names"),
        (profile({"names": ["read"]}), "linux.seccomp.syscalls[0].action"),
        (profile(allow("read", errnoRet=1)), "linux.seccomp.syscalls[0].errnoRet"),
        (profile(allow("read", args={})), "linux.seccomp.syscalls[0].args"),
        (profile(allow("read", args=[CONDITION, 1])), "linux.seccomp.syscalls[0].args[1]"),
        (profile(allow("read", args=[{**CONDITION, "index": 6}])), "linux.seccomp.syscalls[0].args[0].index"),
        (profile(allow("read", args=[{**CONDITION, "op": "=="}])), "linux.seccomp.syscalls[0].args[0].op"),
        (profile(allow("read", args=[{**CONDITION, "value": 2**64}])), "linux.seccomp.syscalls[0].args[0].value"),
        (profile(allow("read", args=[{**CONDITION, "value": 1.0}])), "linux.seccomp.syscalls[0].args[0].value"),
        (profile(allow("read", args=[{**CONDITION, "valueTwo": -1}])), "linux.seccomp.syscalls[0].args[0].valueTwo"),
        (profile(None), "linux.seccomp.syscalls[0]"),
    ],
)
def test_a_mistake_is_told_with_its_place(given_profile: object, path: str) -> None:
    with pytest.raises(RunError) as caught:
        read(given_profile)
    assert caught.value.message.startswith(f"{path}: ")
