"""Names, sets, and what the command line makes of them."""

import os
import re

import pytest

from runtime.capabilities import ALL, BUILD_DEFAULT, NAMES, RUN_DEFAULT, VERSION_3, adjust, mask_of, names_of, permitted
from store.errors import RunError, UsageError
from store.syscalls import libc
from tests.runtime.child import keep, result_of, status


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


def test_all_is_what_box_itself_has_and_no_more() -> None:
    held = ALL & ~mask_of(["SYS_RESOURCE", "BPF"])
    assert adjust(RUN_DEFAULT, ["ALL"], [], held=held) == held
    assert adjust(RUN_DEFAULT, ["ALL"], ["KILL"], held=held) == held & ~(1 << 5)
    assert adjust(RUN_DEFAULT, ["NET_RAW"], [], held=held) == RUN_DEFAULT | 1 << 13


def test_what_box_itself_lacks_cannot_be_added_by_name() -> None:
    held = ALL & ~mask_of(["SYS_RESOURCE", "BPF"])
    with pytest.raises(RunError, match="box itself lacks SYS_RESOURCE, BPF"):
        adjust(RUN_DEFAULT, ["sys_resource", "NET_RAW", "bpf"], [], held=held)


def test_what_this_process_may_use_is_what_the_kernel_says() -> None:
    assert permitted() == int(status()["CapPrm"], 16)


@pytest.mark.needs("root")
def test_what_is_permitted_counts_and_not_what_is_in_effect() -> None:
    def lay_aside() -> list[int]:
        before = permitted()
        low, high = (before & 0xFFFFFFFF).to_bytes(4, "little"), (before >> 32).to_bytes(4, "little")
        libc("capset", VERSION_3.to_bytes(4, "little") + bytes(4), bytes(4) + low + bytes(8) + high + bytes(4))
        return [before, permitted(), int(status()["CapEff"], 16)]

    before, after, effective = result_of(lay_aside)
    assert before == after and effective == 0


@pytest.mark.needs("root")
def test_what_was_given_up_is_no_longer_permitted() -> None:
    def give_up() -> int:
        keep(RUN_DEFAULT & ~(1 << 5))
        return permitted()

    assert result_of(give_up) == RUN_DEFAULT & ~(1 << 5)
