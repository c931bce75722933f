"""Names, sets, and giving capabilities up."""

import errno
import os
import re

import pytest

from runtime import capabilities
from runtime.capabilities import ALL, BUILD_DEFAULT, NAMES, RUN_DEFAULT, adjust, mask_of, names_of
from store.errors import UsageError
from store.syscalls import libc
from tests.runtime.child import result_of, status


def test_the_table_has_the_kernels_names_and_numbers() -> None:
    assert len(NAMES) == len(set(NAMES)) == 41
    known = {
        "CHOWN": 0,
        "KILL": 5,
        "SETPCAP": 8,
        "NET_RAW": 13,
        "SYS_ADMIN": 21,
        "MKNOD": 27,
        "SETFCAP": 31,
        "SYSLOG": 34,
        "BPF": 39,
    }
    assert {name: NAMES.index(name) for name in known} == known
    assert NAMES[40] == "CHECKPOINT_RESTORE"


@pytest.mark.skipif(not os.path.exists("/usr/include/linux/capability.h"), reason="no kernel headers")
def test_the_table_is_that_of_the_kernel_headers() -> None:
    with open("/usr/include/linux/capability.h") as file:
        header = {name: int(number) for name, number in re.findall(r"^#define CAP_(\w+)\s+(\d+)\s*$", file.read(), re.M)}
    assert header == {name: number for number, name in enumerate(NAMES)}


def test_a_container_gets_eight_and_a_build_step_eleven() -> None:
    assert names_of(RUN_DEFAULT) == ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE"]
    assert set(names_of(BUILD_DEFAULT)) - set(names_of(RUN_DEFAULT)) == {"SETFCAP", "SETPCAP", "SYS_CHROOT"}
    assert len(names_of(BUILD_DEFAULT)) == 11


@pytest.mark.parametrize("spelling", ["NET_RAW", "net_raw", "CAP_NET_RAW", "cap_net_raw", "Cap_Net_Raw"])
def test_a_name_may_be_spelled_in_any_case_with_or_without_the_prefix(spelling: str) -> None:
    assert mask_of([spelling]) == 1 << 13


def test_names_and_masks_are_each_others_inverse() -> None:
    assert mask_of(names_of(ALL)) == ALL
    assert names_of(mask_of(["BPF", "CHOWN"])) == ["CHOWN", "BPF"]


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], RUN_DEFAULT),
        (["NET_RAW"], [], RUN_DEFAULT | 1 << 13),
        ([], ["chown"], RUN_DEFAULT & ~1),
        ([], ["NET_RAW"], RUN_DEFAULT),
        ([], ["ALL"], 0),
        (["KILL"], ["all"], 1 << 5),
        (["ALL"], [], ALL),
        (["ALL"], ["SYS_ADMIN"], ALL & ~(1 << 21)),
        (["NET_RAW", "ALL"], [], ALL),
        (["CAP_ALL"], ["cap_kill"], ALL & ~(1 << 5)),
    ],
)
def test_adding_and_dropping(add: list[str], drop: list[str], expected: int) -> None:
    assert adjust(RUN_DEFAULT, add, drop) == expected


def test_names_may_come_from_an_iterator() -> None:
    assert adjust(RUN_DEFAULT, iter(["ALL"]), iter(["KILL"])) == ALL & ~(1 << 5)


@pytest.mark.parametrize(("add", "drop"), [(["KILL"], ["cap_kill"]), (["ALL"], ["ALL"])])
def test_what_is_both_added_and_dropped_is_a_mistake(add: list[str], drop: list[str]) -> None:
    with pytest.raises(UsageError, match="both added and dropped"):
        adjust(RUN_DEFAULT, add, drop)


def test_an_unknown_name_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UsageError, match="unknown capability 'SYS_ADMN'") as caught:
        mask_of(["SYS_ADMN"])
    assert caught.value.hint == "did you mean SYS_ADMIN?"
    with pytest.raises(UsageError) as caught:
        mask_of(["zzz"])
    assert "capabilities(7)" in caught.value.hint


@pytest.mark.needs("root")
def test_the_bounding_set_keeps_the_mask_and_nothing_else() -> None:
    def give_up() -> list[str]:
        before = status()["CapBnd"]
        capabilities.limit_bounding(RUN_DEFAULT)
        return [before, status()["CapBnd"]]

    before, after = result_of(give_up)
    assert int(after, 16) == RUN_DEFAULT
    assert int(before, 16) & ~RUN_DEFAULT


@pytest.mark.needs("root")
def test_a_capability_that_the_table_does_not_have_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel newer than the table."""
    monkeypatch.setattr(capabilities, "NAMES", NAMES[:20])

    def give_up() -> str:
        capabilities.limit_bounding(1)
        return status()["CapBnd"]

    assert int(result_of(give_up), 16) == 1


@pytest.mark.needs("root")
def test_own_sets_are_the_mask_with_nothing_inheritable_or_ambient() -> None:
    def give_up() -> list[dict[str, str]]:
        # What a careless caller may have left: inheritable and ambient.
        everything = capabilities.permitted()
        low, high = (everything & 0xFFFFFFFF).to_bytes(4, "little"), (everything >> 32).to_bytes(4, "little")
        libc("capset", capabilities._header(), low * 3 + high * 3)
        libc("prctl", 47, 2, 5, 0, 0)  # PR_CAP_AMBIENT_RAISE, CAP_KILL
        before = status()
        capabilities.limit_own(RUN_DEFAULT)
        return [before, status()]

    before, after = result_of(give_up)
    assert int(before["CapInh"], 16) and int(before["CapAmb"], 16) == 1 << 5
    assert {name: int(after[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": RUN_DEFAULT,
        "CapEff": RUN_DEFAULT,
        "CapAmb": 0,
    }


@pytest.mark.needs("root")
def test_what_box_itself_lacks_is_left_out() -> None:
    def give_up() -> str:
        capabilities.limit_own(capabilities.permitted() & ~(1 << 5))
        capabilities.limit_own(RUN_DEFAULT)
        return status()["CapEff"]

    assert int(result_of(give_up), 16) == RUN_DEFAULT & ~(1 << 5)


@pytest.mark.needs("root")
def test_dropping_from_the_bounding_set_without_the_right_to_is_an_error_that_names_it() -> None:
    def give_up() -> None:
        capabilities.limit_own(0)
        capabilities.limit_bounding(0)

    failure = result_of(give_up)
    assert failure["errno"] == errno.EPERM
    assert "drop capability 0 from the bounding set" in failure["text"]
