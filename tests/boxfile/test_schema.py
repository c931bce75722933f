"""The JSON schema says what the parser does, as far as a schema can."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import boxfile
from boxfile import parse
from boxfile.document import DOCUMENT_KEYS
from boxfile.kinds import Key
from boxfile.nodes import Mapping, Node, Scalar, Sequence, compose
from boxfile.scalars import resolve
from boxfile.schema import schema, text
from boxfile.source import Source
from boxfile.steps import VERBS
from store.errors import BoxfileError

CHECKED_IN = Path(boxfile.__file__).with_name("schema.json")
EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = "box: 1\nbase: scratch\n"

VALID = [
    HEAD,
    "box: 1\nname: shop/api:1.4\nargs: {python: 3.12, none: null}\nbase: ./debian.tar.zst\n",
    "box: 1\nbase: debian:12\n",
    "box: 1\nbase: registry.example:5000/x@sha256:" + "0" * 64 + "\n",
    "box: 1\nbase: {host: [sh, ls]}\n",
    "box: 1\nargs: {d: 12}\nbase: debian:${{ d }}\n",
    HEAD + "steps: []\n",
    HEAD
    + "steps:\n  - run: make\n  - run: [make, -j, 4]\n  - run: true\n  - {run: make, env: {CI: 1}, network: none, user: 1000}\n",
    HEAD + "steps: [{run: {command: make, shell: [bash, -c]}}, {run: {command: [make], shell: null, workdir: /app}}]\n",
    HEAD + "steps: [{copy: src/ -> /app}, {copy: {from: a, to: /b}}, {copy: {from: [a, b], to: /c/, exclude: ['*.pyc']}}]\n",
    HEAD + "steps: [{copy: a -> /b, mode: '0644', owner: app:www}, {mkdir: /x}, {mkdir: {path: /x, mode: '0o755'}}]\n",
    HEAD + "steps: [{write: {to: /x, text: ''}}, {write: {to: /x, text: 12, owner: 0:0}}, {symlink: {path: /a, target: b}}]\n",
    HEAD + "steps: [{remove: /a/**}, {remove: [/a, /b]}, {env: {A: yes}}, {workdir: /}, {user: app}, {label: {a.b: c}}]\n",
    HEAD + "args: {p: /x, m: '0700'}\nsteps: [{mkdir: {path: '${{ p }}', mode: '${{ m }}'}}, {copy: 'a -> ${{ p }}'}]\n",
    HEAD + "config: {}\n",
    HEAD + "config: {entrypoint: [a], cmd: [b], env: {A: b}, workdir: /a, user: a, volumes: [/a], labels: {a: b}}\n",
    HEAD + "config: {expose: [80, 53/udp, 1-5/TCP]}\n",
    HEAD + "config: {stop_signal: SIGTERM, reset: [env], healthcheck: {command: [a], interval: 1m30s, retries: 3}}\n",
    HEAD + "config: {stop_signal: 9, cmd: python app.py, healthcheck: {command: a, timeout: 0.5s}}\n",
]
WRONG = [
    "base: scratch\n",
    "box: 1\n",
    "box: 2\nbase: scratch\n",
    "box: '1'\nbase: scratch\n",
    "- box\n",
    HEAD + "stpes: []\n",
    HEAD + "include: [a]\n",
    HEAD + "stages: {}\n",
    HEAD + "name: ''\n",
    HEAD + "name: [a]\n",
    HEAD + "args: [a]\n",
    HEAD + "args: {1a: b}\n",
    HEAD + "args: {a: [b]}\n",
    "box: 1\nbase: debian.tar\n",
    "box: 1\nbase: ./debian\n",
    "box: 1\nbase: ./../debian.tar\n",
    "box: 1\nbase: /debian.tar\n",
    "box: 1\nbase: host\n",
    "box: 1\nbase: https://example.org/x.tar\n",
    "box: 1\nbase: oci:dir:tag\n",
    "box: 1\nbase: {stage: a}\n",
    "box: 1\nbase: {host: []}\n",
    "box: 1\nbase: {host: [a, a]}\n",
    "box: 1\nbase: {}\n",
    "box: 1\nbase: null\n",
    *(
        HEAD + f"steps: [{step}]\n"
        for step in (
            "make",
            "{}",
            "{frobnicate: 1}",
            "{run: null}",
            "{run: ''}",
            "{run: []}",
            "{run: {env: {A: b}}}",
            "{run: {command: a, network: lan}}",
            "{run: {command: a, mounts: []}}",
            "{run: a, fresh: 7d}",
            "{run: a, copy: b -> /c}",
            "{run: a, env: {1A: b}}",
            "{run: a, workdir: app}",
            "{env: {A: b}, network: none}",
            "{env: {A: null}}",
            "{env: [A]}",
            "{copy: a}",
            "{copy: {from: a}}",
            "{copy: {from: /a, to: /b}}",
            "{copy: {from: a, to: b}}",
            "{copy: {from: a, to: /b, stage: c}}",
            "{copy: {from: a, to: /b, mode: 0644}}",
            "{mkdir: x}",
            "{mkdir: /}",
            "{mkdir: {path: /x, mode: '0999'}}",
            "{mkdir: {path: /x, owner: 'a b'}}",
            "{mkdir: {path: /x, owner: 'a:'}}",
            "{write: /x}",
            "{write: {to: /x}}",
            "{symlink: {path: /a}}",
            "{remove: []}",
            "{remove: x}",
            "{workdir: app}",
            "{user: {name: a}}",
            "{user: ''}",
            "{label: {'': a}}",
            "{fetch: {}}",
        )
    ),
    *(
        HEAD + f"config: {config}\n"
        for config in (
            "null",
            "[]",
            "{ports: [80]}",
            "{cmd: []}",
            "{expose: 80}",
            "{expose: [0]}",
            "{expose: [80/icmp]}",
            "{volumes: [a]}",
            "{volumes: [/a, /a]}",
            "{stop_signal: TERM}",
            "{stop_signal: 65}",
            "{reset: [mode]}",
            "{healthcheck: a}",
            "{healthcheck: {interval: 1s}}",
            "{healthcheck: {command: a, interval: 30}}",
            "{healthcheck: {command: a, retries: -1}}",
        )
    ),
]


def plain(node: Node) -> Any:
    """A document as an editor hands it to a schema: YAML 1.2 core values."""
    if isinstance(node, Scalar):
        return resolve(node.value) if node.plain else node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    assert isinstance(node, Mapping)
    return {name: plain(value) for name, (_, value) in node.pairs.items()}


VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_that_is_checked_in_is_the_one_the_tables_make() -> None:
    assert CHECKED_IN.read_text() == text(), "run: python -m boxfile.schema > boxfile/schema.json"


def test_the_module_prints_the_schema() -> None:
    root = Path(boxfile.__file__).parents[1]
    done = subprocess.run([sys.executable, "-m", "boxfile.schema"], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == text()
    assert done.stderr == ""


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(text()))


@pytest.mark.parametrize("document", VALID)
def test_both_take_what_is_right(document: str) -> None:
    parse(document)
    VALIDATOR.validate(plain(compose(Source(document, "Boxfile"))))


@pytest.mark.parametrize("document", WRONG)
def test_both_refuse_what_is_wrong(document: str) -> None:
    with pytest.raises(BoxfileError):
        parse(document)
    assert not VALIDATOR.is_valid(plain(compose(Source(document, "Boxfile"))))


def test_the_examples_are_right() -> None:
    for example in EXAMPLES.glob("*/Boxfile"):
        text = example.read_text()
        parse(text, path=str(example))
        VALIDATOR.validate(plain(compose(Source(text, str(example)))))


def test_every_key_of_the_tables_is_documented_and_in_the_schema_exactly_when_it_is_supported() -> None:
    step_schemas = {form["required"][0]: form for form in schema()["$defs"]["step"]["anyOf"]}
    assert list(step_schemas) == list(VERBS)
    tables: list[tuple[dict[str, Key], dict[str, Any]]] = [(DOCUMENT_KEYS, schema()["properties"])]
    tables += [(verb.options, step_schemas[name]["properties"]) for name, verb in VERBS.items()]
    for table, properties in tables:
        for name, key in table.items():
            assert key.doc.endswith(".")
            assert (name in properties) == (key.kind is not None)
