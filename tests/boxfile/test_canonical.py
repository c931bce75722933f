"""The canonical text of a step: equal for equal meaning, different for different meaning."""

import pytest

from boxfile import Place, RunStep, canonical, parse


def text_of(step: str, **args: str) -> str:
    return canonical(parse(f"box: 1\nargs: {{v: x}}\nbase: scratch\nsteps:\n  - {step}\n", args=args).steps[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("run: make", "run: {command: make, network: default, shell: [/bin/sh, -e, -c]}"),
        ("run: make", '"run"  :   "make"   # says make'),
        ("{run: make, env: {A: b, C: d}}", "{env: {C: d, A: b}, run: make}"),
        ("env: {A: b, C: d}", "env: {C: d, A: 'b'}"),
        ("label: {a: b, c: d}", "label: {c: d, a: b}"),
        ("copy: a -> /b", "copy: {from: [a], to: /b}"),
        ('mkdir: {path: /x, mode: "0755"}', "mkdir: /x"),
        ('mkdir: {path: /x, mode: "755"}', "mkdir: /x"),
        ("run: echo ${{ v }}", "run: echo x"),
        ("user: 1000", 'user: "1000"'),
    ],
)
def test_the_same_meaning_has_one_text(one: str, other: str) -> None:
    assert text_of(one) == text_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("run: make", "run: [make]"),
        ("run: [a, b]", "run: [a b]"),
        ("run: [a, 'b, c']", "run: [a, b, c]"),
        ("run: make", "run: {command: make, shell: [bash, -c]}"),
        ("run: make", "run: {command: make, network: none}"),
        ("run: make", "run: {command: make, user: root}"),
        ("run: make", "run: {command: make, env: {A: ''}}"),
        ("run: make", "run: {command: make, workdir: /}"),
        ("copy: a -> /b", "copy: a -> /b/"),
        ("copy: a -> /b", 'copy: {from: a, to: /b, mode: "0644"}'),
        ("copy: a -> /b", "copy: {from: a, to: /b, exclude: [c]}"),
        ("copy: {from: [a, b], to: /c}", "copy: {from: [b, a], to: /c}"),
        ("copy: a -> /b", "copy: {from: a, to: /b, owner: root}"),
        ("write: {to: /x, text: a}", 'write: {to: /x, text: "a\\n"}'),
        ("workdir: /x", "mkdir: /x"),
        ("env: {A: b}", "label: {A: b}"),
        ("run: ä", 'run: "a\\u0308"'),
    ],
)
def test_different_meanings_have_different_texts(one: str, other: str) -> None:
    assert text_of(one) != text_of(other)


def test_the_canonical_text_is_stable() -> None:
    """A change here makes every cache of every user miss: change it on purpose."""
    assert text_of("run: {command: 'echo ä', env: {B: c, A: '1'}, user: app}") == (
        "run\ncommand 'echo \\xe4'\nshell ('/bin/sh', '-e', '-c')\nenv (('A', '1'), ('B', 'c'))\nuser 'app'\nnetwork 'default'\n"
    )
    assert text_of('copy: {from: [a], to: /b, mode: "0600"}') == "copy\nsources ('a',)\nto '/b'\nmode 0o600\n"


def test_the_canonical_text_is_ascii_and_has_nothing_of_place_or_progress_text() -> None:
    here = RunStep(Place(1, 2), "one", "echo 日本\u0378", ("sh",))
    there = RunStep(Place(9, 9), "two", "echo 日本\u0378", ("sh",))
    assert canonical(here) == canonical(there)
    assert canonical(here).isascii()


def test_an_argument_that_a_step_does_not_use_does_not_change_its_text() -> None:
    assert text_of("run: make", v="y") == text_of("run: make")
    assert text_of("run: ${{ v }}", v="y") != text_of("run: ${{ v }}")
