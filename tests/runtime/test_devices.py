"""Which devices a container may use: the kernel's word, on v1's controller and on the program of v2."""

import os
from typing import Any

import pytest

from runtime.device_filter import attach, attached
from runtime.device_rules import MKNOD, READ, WRITE
from tests.runtime.groups import ENGINES, family
from tests.runtime.test_device_rules import ALLOW_ALL, DENY_ALL, by_the_kernel, rules

pytestmark = pytest.mark.needs("root", "cgroup")

NODES = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("urandom", 1, 9),
    ("kmsg", 1, 11),
    ("mem", 1, 1),
    ("loop-control", 10, 237),
]
ATTEMPTS = f"""
for name, major, minor in {NODES!r}:
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        try:
            os.close(os.open("/dev/" + name, mode))
            out("+")
        except FileNotFoundError:
            out("?")
        except OSError as error:
            out("-" if error.errno == 1 else "+")
    for kind, bit in (("c", 0o20000), ("b", 0o60000)):
        path = f"/tmp/box-node-{{os.getpid()}}"
        try:
            os.mknod(path, bit | 0o600, os.makedev(major, minor))
            os.unlink(path)
            out("+")
        except OSError:
            out("-")
    out(" ")
"""
LISTS: list[list[dict[str, Any]]] = [
    [],
    [DENY_ALL],
    [ALLOW_ALL],
    [DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
    [ALLOW_ALL, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}],
    [ALLOW_ALL, {"allow": False, "type": "c", "major": 10, "access": "rwm"}],
    [DENY_ALL, {"allow": True, "type": "c", "major": 10, "minor": -1, "access": "rw"}],
    *[ENGINES[name]["resources"]["devices"] for name in ENGINES],
]


@pytest.mark.parametrize("given", range(len(LISTS)))
def test_the_kernel_allows_what_the_rules_say(given: int) -> None:
    these = rules(*LISTS[given])
    with family() as home:
        group = home.group({"devices": LISTS[given]})
        said = home.answer(group, ATTEMPTS).split()
        group.delete()
    for (_, major, minor), answers in zip(NODES, said, strict=True):
        asked = [("c", READ), ("c", WRITE), ("c", READ | WRITE), ("c", MKNOD), ("b", MKNOD)]
        expected = ["+" if by_the_kernel(these, kind, major, minor, access) else "-" for kind, access in asked]
        assert [want if got == "?" else got for want, got in zip(expected, answers, strict=True)] == expected, (major, minor)


def test_the_program_on_v2_answers_the_same_and_is_replaced_by_an_update() -> None:
    """On a hybrid machine, whose v2 tree has no controllers: BPF needs none."""
    with family() as home:
        group = home.group({"devices": [ALLOW_ALL]})
        directory = group.paths.get("unified")
        if directory is None:
            pytest.skip("no cgroup v2 is mounted")
        fd = os.open(directory, os.O_RDONLY)
        try:
            programs = []
            for given in LISTS:
                these = rules(*given)
                attach(fd, these)
                programs += attached(fd)
                assert len(attached(fd)) == 1
                answers = home.answer(group, ATTEMPTS).split()[4]
                asked = [("c", READ), ("c", WRITE), ("c", READ | WRITE), ("c", MKNOD), ("b", MKNOD)]
                expected = ["+" if by_the_kernel(these, kind, 1, 11, access) else "-" for kind, access in asked]
                assert list(answers) == expected, str(these)
            assert len(set(programs)) == len(LISTS)
        finally:
            os.close(fd)
        group.delete()


def test_an_update_of_devices_keeps_those_that_stay() -> None:
    kmsg = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    with family() as home:
        group = home.group({"devices": [DENY_ALL]})
        look = "for name in ('null', 'kmsg'):\n try: os.open('/dev/' + name, 0); out('+')\n except OSError: out('-')"
        assert home.answer(group, look) == "+-"
        group.update({"devices": [DENY_ALL, kmsg]})
        assert home.answer(group, look) == "++"
        group.update({"pids": {"limit": 100}})
        assert home.answer(group, look) == "++"
        group.update({"devices": [DENY_ALL]})
        assert home.answer(group, look) == "+-"
        group.delete()
