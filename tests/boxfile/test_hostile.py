"""Boxfiles that mean harm: each is refused at a place, quickly, and with little memory."""

import tracemalloc

import pytest

from boxfile import parse, render
from store.errors import BoxfileError

HEAD = "box: 1\nbase: scratch\n"


def laughs(levels: int, width: int) -> str:
    """A billion laughs: each level is a list of `width` aliases of the level below."""
    lines = ["a0: &a0 [ha]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


HOSTILE = [
    # what, text, line:column, message
    ("alias bomb", laughs(12, 10), "6:30", "more than 100,000 values with the aliases written out"),
    (
        "alias bomb of mappings",
        "a: &a {x: 1, y: 2}\n"
        + "".join(f"{b}: &{b} {{x: *{a}, y: *{a}, z: *{a}}}\n" for a, b in zip("abcdefghijklm", "bcdefghijklmn", strict=True)),
        "10:25",
        "more than 100,000 values",
    ),
    (
        "deep by aliases",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100)),
        "64:12",
        "nested deeper than 64",
    ),
    ("recursion", HEAD + "steps: &s [*s]\n", "3:12", "the alias '*s' is inside what it names"),
    ("recursion through a mapping", "box: 1\nbase: &b {host: *b}\n", "2:17", "the alias '*b' is inside what it names"),
    ("deep lists", HEAD + "steps: " + "[" * 100_000, "3:71", "nested deeper than 64 levels"),
    ("deep mappings", "{a: " * 100_000, "1:257", "nested deeper than 64 levels"),
    ("deep block lists", HEAD + "steps:\n" + "- " * 100_000, "4:127", "nested deeper than 64 levels"),
    ("python tag", HEAD + "steps: !!python/object/apply:os.system ['true']\n", "3:8", "tags are no part of a Boxfile: '!!python"),
    ("tag of a scalar", "box: !!int '1'\nbase: scratch\n", "1:6", "tags are no part of a Boxfile: '!!int'"),
    ("binary tag", "box: 1\nbase: !!binary aGk=\n", "2:7", "tags are no part of a Boxfile: '!!binary'"),
    ("own tag behind an anchor", "box: 1\nbase: &x !own scratch\n", "2:10", "tags are no part of a Boxfile: '!own'"),
    ("tag of no kind", "box: 1\nbase: ! scratch\n", "2:7", "tags are no part of a Boxfile: '!'"),
    ("tag of a key", "!!str box: 1\n", "1:1", "tags are no part of a Boxfile: '!!str'"),
    ("tag directive", "%TAG ! tag:x,2000:\n---\nbox: 1\n", "1:1", "tags are no part of a Boxfile"),
    ("YAML 1.1", "%YAML 1.1\n---\nbox: 1\n", "1:1", "a Boxfile is YAML 1.2"),
    ("two documents", HEAD + "---\n" + HEAD, "3:1", "a second document starts here"),
    ("duplicate key", HEAD + "box: 1\n", "3:1", "the key 'box' is here twice"),
    ("duplicate by quotes", HEAD + '"base": debian\n', "3:1", "the key 'base' is here twice"),
    ("duplicate by escape", HEAD + '"\\x62ox": 1\n', "3:1", "the key 'box' is here twice"),
    ("duplicate by alias", "&k box: 1\n*k : 1\n", "2:1", "the key 'box' is here twice"),
    ("merge key", HEAD + "config: {<<: {user: root}}\n", "3:10", "merge keys are no part of a Boxfile"),
    ("yes as a version", "box: yes\nbase: scratch\n", "1:6", "expected the version of the language, found the text 'yes'"),
    ("octal mode", HEAD + "steps: [{mkdir: {path: /x, mode: 0777}}]\n", "3:34", "the number '0777' is not a mode"),
    ("large file", "#" * (1 << 20) + "\n", "1:1", "the file is larger than 1 MiB"),
    ("large file of wide characters", "#" + "日" * 400_000, "1:1", "the file is larger than 1 MiB"),
    (
        "long text times many",
        HEAD + "steps:\n  - &s {run: '" + "x" * 50_000 + "'}\n" + "  - *s\n" * 1000,
        "4:14",
        "more than 16 MiB of text",
    ),
    (
        "argument bomb",
        "box: 1\nargs: {a: '" + "x" * 90_000 + "'}\nbase: scratch\nsteps:\n  - run: '" + "${{a}}" * 5000 + "'\n",
        "5:1127",
        "the arguments make the text too long",
    ),
    ("port bomb", HEAD + "config: {expose: [" + "1-1000," * 100_000 + "1]}", "3:700012", "more than 100,000 values"),
    ("NUL", "box: 1\nbase: scr\0atch\n", "2:10", "a NUL byte"),
    ("escape sequence", "box: 1\n# \x1b]0;title\x07\nbase: scratch\n", "2:3", "the character U+001B is not allowed here"),
    ("C1 control", "box: 1\nbase: a\x9b31mb\n", "2:8", "the character U+009B is not allowed here"),
    ("backspace", "box: 1\nbase: evil\b\b\b\bgood\n", "2:11", "the character U+0008 is not allowed here"),
    ("bidi override", "box: 1\nbase: a\u202eb\n", "2:8", "the character U+202E is not allowed here"),
    ("bidi isolate", "box: 1\nbase: a\u2066b\n", "2:8", "the character U+2066 is not allowed here"),
    ("byte order mark within", "box: 1\n\ufeffbase: scratch\n", "2:1", "the character U+FEFF is not allowed here"),
    ("lone carriage return", "box: 1\nbase: x\rname: y\n", "2:8", "a carriage return without a line feed"),
    ("line separator", "box: 1\nbase: x\u2028name: y\n", "2:8", "the character U+2028 is not allowed here"),
    ("next line", "box: 1\nbase: x\u0085name: y\n", "2:8", "the character U+0085 is not allowed here"),
    ("half a surrogate pair", "box: 1\nbase: x\ud800\n", "2:8", "the character U+D800 is not allowed here"),
    ("noncharacter", "box: 1\nbase: x\uffff\n", "2:8", "the character U+FFFF is not allowed here"),
    ("tab as indentation", "box: 1\nsteps:\n\t- run: x\n", "3:1", "a tab where YAML wants spaces"),
    ("digits without end", "box: " + "1" * 100_000, "1:6", "expected the version of the language, found the text '111"),
    ("path with NUL", HEAD + 'steps: [{mkdir: "/a\\0b"}]\n', "3:17", "a NUL cannot be part of this"),
    ("copy out of the context", HEAD + "steps: [{copy: ../../etc/shadow -> /x}]\n", "3:16", "leaves the context"),
    ("list as key", HEAD + "? [a]\n: b\n", "3:3", "a list as a key"),
    ("mapping as key", HEAD + "? {a: b}\n: c\n", "3:3", "a mapping as a key"),
    ("list as key by alias", "x: &l [a]\n*l : b\n", "2:1", "a list as a key"),
]


@pytest.mark.parametrize(("text", "place", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_text_is_refused_at_its_place(text: str, place: str, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BoxfileError) as caught:
            parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message in caught.value.message
    assert f"{caught.value.line}:{caught.value.column}" == place
    assert peak < 100 << 20


@pytest.mark.parametrize(("text"), [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_is_shown_of_a_hostile_text_is_short_and_speaks_to_no_terminal(text: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(text, path="evil\x1b[2J/Boxfile")
    said = render(caught.value)
    assert all(character.isprintable() or character == "\n" for character in said)
    assert len(said) < 1500


@pytest.mark.parametrize(
    "text",
    [
        HEAD + 'steps:\n  - "a\\e[31mb": x\n',
        HEAD + 'config: {stop_signal: "\\e[31m"}\n',
        HEAD + 'config: {labels: {"\\e[31m": x}}\n',
        'box: 1\nbase: "\\e[31m"\n',
        'box: 1\nbase: "\\e[31m.tar"\n',
        'box: 1\nargs: {"\\e": x}\nbase: scratch\n',
        'box: 1\nargs: {a: x}\nbase: "${{ \\e[31m }}"\n',
        'box: 1\nbase: scratch\n"\\e[31m": x\n"\\e[31m": y\n',
        HEAD + 'steps: [{copy: "\\e[31ma b -> /c"}]\n',
        HEAD + 'steps: ["\\e[31m"]\n',
    ],
)
def test_an_escape_written_in_yaml_is_shown_as_an_escape(text: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(text)
    said = render(caught.value)
    assert "\x1b" not in said + caught.value.message
    assert "\\x1b" in said or "\\e" in said


def test_the_text_of_a_step_speaks_to_no_terminal() -> None:
    (step,) = parse(HEAD + 'steps:\n  - run: "\\e]0;title\\a\\u202Emake"\n').steps
    assert step.text == "run: \\x1b]0;title\\x07\\u202emake"


def test_a_document_at_the_limits_is_read() -> None:
    items = ", ".join(["x"] * 90_000)
    assert len(parse(HEAD + f"steps: [{{run: [{items}]}}]\n").steps) == 1
    deep = HEAD + "steps: " + "[" * 63 + "]" * 63
    with pytest.raises(BoxfileError, match="expected a step"):  # judged by the language, not by the depth
        parse(deep)


def test_a_naive_loader_falls_for_what_is_refused_here() -> None:
    """The control: PyYAML's own safe loader takes the duplicate, the coercions and the expansion that the table above refuses."""
    import yaml

    assert yaml.safe_load("box: 1\nbase: scratch\nbase: evil\n") == {"box": 1, "base": "evil"}
    assert yaml.safe_load("{a: no, b: 012, c: 1:30, d: 3.10}") == {"a": False, "b": 10, "c": 90, "d": 3.1}
    bomb = yaml.safe_load(laughs(5, 10))
    assert sum(1 for a in bomb["a4"] for b in a for c in b for _ in c) == 10_000
    loop = yaml.safe_load("&s [*s]")
    assert loop[0] is loop
