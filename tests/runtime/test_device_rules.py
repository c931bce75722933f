"""Which devices a container may use, on paper: the rules as v1 understands them, and the program that says the same on v2."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.device_filter import assemble
from runtime.device_rules import ANY, DEFAULTS, MKNOD, READ, WRITE, DeviceRules
from runtime.resource_fields import Fields
from store.errors import RunError
from tests.runtime import ebpf

EVERY = READ | WRITE | MKNOD
KINDS = {"b": 1, "c": 2}


def rules(*given: dict[str, Any]) -> DeviceRules:
    return DeviceRules.of(Fields("linux.resources", {"devices": list(given)}))


def allowed(program: bytes, kind: str, major: int, minor: int, access: int) -> bool:
    return ebpf.run(program, KINDS[kind], access, major, minor) == 1


def by_the_kernel(these: DeviceRules, kind: str, major: int, minor: int, access: int) -> bool:
    """security/device_cgroup.c: an exception to deny has to match wholly, one to allow in part."""
    for (other, its_major, its_minor), its_access in these.exceptions.items():
        if other == kind and its_major in (ANY, major) and its_minor in (ANY, minor):
            if not these.allowing and not access & ~its_access:
                return True
            if these.allowing and access & its_access:
                return False
    return these.allowing


DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}
FUSE = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}


def test_without_a_rule_everything_but_the_runtime_s_own_devices_is_denied() -> None:
    for these in (rules(), rules(DENY_ALL)):
        program = assemble(these)
        assert all(allowed(program, "c", 1, minor, EVERY) for minor in (3, 5, 7, 8, 9))
        assert allowed(program, "c", 136, 7, READ | WRITE)
        assert allowed(program, "b", 8, 0, MKNOD) and not allowed(program, "b", 8, 0, READ)
        assert not allowed(program, "c", 1, 1, READ)  # /dev/mem
        assert not allowed(program, "c", 10, 229, READ)


def test_a_rule_allows_what_it_says_and_no_more() -> None:
    program = assemble(rules(DENY_ALL, FUSE))
    assert allowed(program, "c", 10, 229, READ | WRITE)
    assert not allowed(program, "c", 10, 229, READ | MKNOD)  # no single rule grants both
    assert not allowed(program, "b", 10, 229, READ)
    assert not allowed(program, "c", 10, 228, READ)


def test_the_last_rule_decides_and_the_order_is_the_config_s() -> None:
    denied = FUSE | {"allow": False}
    assert allowed(assemble(rules(denied, FUSE)), "c", 10, 229, READ)
    assert not allowed(assemble(rules(FUSE, denied)), "c", 10, 229, READ)
    assert not allowed(assemble(rules(FUSE, DENY_ALL)), "c", 10, 229, READ)
    assert not allowed(assemble(rules(FUSE, {"allow": False, "type": "c", "major": 10, "access": "rwm"})), "c", 10, 229, READ)


def test_everything_allowed_is_everything_and_what_is_denied_then_is_denied() -> None:
    assert allowed(assemble(rules(ALLOW_ALL)), "b", 8, 0, EVERY)
    program = assemble(rules(ALLOW_ALL, {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "w"}))
    assert allowed(program, "b", 8, 0, READ)
    assert not allowed(program, "b", 8, 0, READ | WRITE)  # a part of what is asked for is denied
    assert allowed(program, "b", 8, 1, WRITE)


def test_numbers_of_32_bits_are_compared_whole() -> None:
    most = (1 << 32) - 1
    program = assemble(rules({"allow": True, "type": "c", "major": most, "minor": 1 << 31, "access": "r"}))
    assert allowed(program, "c", most, 1 << 31, READ)
    assert not allowed(program, "c", most, 1 << 30, READ)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"allow": True, "type": "x", "access": "r"}, r"linux\.resources\.devices\[0\]\.type: 'x' is none of a, b, c"),
        ({"allow": True, "type": "c", "major": -2, "access": "r"}, r"devices\[0\]\.major: -2 is not between"),
        ({"allow": True, "type": "c", "major": 1 << 32, "access": "r"}, r"devices\[0\]\.major"),
        ({"allow": True, "type": "c", "access": "rx"}, r"devices\[0\]\.access: 'rx' is not made of r, w and m"),
        ({"allow": True, "type": "c"}, r"devices\[0\]\.access: ''"),
        ({"allow": "yes"}, r"devices\[0\]\.allow: neither true nor false"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_place(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        rules(rule)


def test_a_hole_in_a_wider_rule_is_refused_since_v1_would_silently_not_make_it() -> None:
    wide = {"allow": True, "type": "c", "major": 10, "access": "rw"}
    with pytest.raises(RunError, match=r"devices\[1\]: c 10:229 rw would cut a hole into c 10:\* rw"):
        rules(wide, FUSE | {"allow": False})
    rules(wide, FUSE | {"allow": False, "access": "m"})  # nothing that the wider one grants


one_rule = st.builds(
    lambda allow, kind, major, minor, access: (allow, kind, major, minor, access),
    st.booleans(),
    st.sampled_from("abc"),
    st.sampled_from([ANY, 1, 2]),
    st.sampled_from([ANY, 3, 4]),
    st.integers(1, EVERY),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(one_rule, max_size=8))
def test_the_program_answers_as_the_controller_and_a_single_access_as_the_last_rule_says(given: list[Any]) -> None:
    these = DeviceRules()
    done = []
    for rule in given:
        allow, kind, major, minor, access = rule
        before = (these.allowing, dict(these.exceptions))
        try:
            if kind == "a":
                these.all(allow)
            else:
                these.add(allow, kind, major, minor, access, "field")
            done.append(rule)
        except RunError:
            these.allowing, these.exceptions = before
    program = assemble(these)
    for kind, major, minor, access in product("bc", (0, 1, 2), (0, 3, 4), range(1, EVERY + 1)):
        answer = allowed(program, kind, major, minor, access)
        assert answer == by_the_kernel(these, kind, major, minor, access)
        if access in (READ, WRITE, MKNOD):
            said = False
            for allow, its_kind, its_major, its_minor, its_access in done:
                hit = its_kind == kind and its_major in (ANY, major) and its_minor in (ANY, minor) and access & its_access
                if its_kind == "a" or hit:
                    said = allow
            assert answer == said, (done, kind, major, minor, access)


@settings(max_examples=200, deadline=None)
@given(st.lists(one_rule, max_size=6), st.lists(one_rule, max_size=6))
def test_an_update_on_v1_comes_out_right_and_never_takes_away_what_both_allow(before: list[Any], after: list[Any]) -> None:
    both = []
    for given_rules in (before, after):
        these = DeviceRules()
        for allow, kind, major, minor, access in given_rules:
            if kind == "a":
                these.all(allow)
            else:
                these.add(allow, kind, major, minor, access)  # without a field, holes are passed over
        both.append(these)
    former, wanted = both
    group = Kernel(former)
    for write in wanted.writes(None if former.allowing else former):
        group.write(write.file == "devices.allow", write.text)
        if not former.allowing and not wanted.allowing:
            for key, access in former.exceptions.items():
                kept = access & wanted.exceptions.get(key, 0)
                assert group.state.exceptions.get(key, 0) & kept == kept
    assert group.state.allowing == wanted.allowing
    assert group.state.exceptions == wanted.exceptions


class Kernel:
    """The controller of v1: an exception is only taken back by a rule for the very same devices."""

    def __init__(self, state: DeviceRules) -> None:
        self.state = DeviceRules()
        self.state.allowing = state.allowing
        self.state.exceptions = dict(state.exceptions)

    def write(self, allow: bool, text: str) -> None:
        if text == "a":
            self.state.all(allow)
            return
        kind, numbers, letters = text.split()
        major, minor = (ANY if part == "*" else int(part) for part in numbers.split(":"))
        access = sum({"r": READ, "w": WRITE, "m": MKNOD}[letter] for letter in letters)
        key = (kind, major, minor)
        left = self.state.exceptions.get(key, 0)
        left = left | access if allow != self.state.allowing else left & ~access
        self.state.exceptions.pop(key, None)
        if left:
            self.state.exceptions[key] = left


def test_the_runtime_s_own_devices_are_those_of_box_run() -> None:
    from runtime import cgroups

    ours = {(kind, major, minor): access for kind, major, minor, access in DEFAULTS}
    texts = [f"{each} rwm" for each in cgroups._DEVICES] + list(cgroups._NODES)
    assert DeviceRules.listed("\n".join(texts)).exceptions == ours
