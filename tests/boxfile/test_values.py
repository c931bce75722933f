"""Values that the language refuses, each with the fact and, where one is likely, the intent."""

import pytest

from boxfile import parse
from store.errors import BoxfileError

STEP_VALUES = [
    # step, the message has, the hint has
    ("mkdir: {path: /x, mode: 0755}", "the number '0755' is not a mode", '"0755"'),
    ("mkdir: {path: /x, mode: 755}", "the number '755' is not a mode", '"0755"'),
    ("mkdir: {path: /x, mode: 0o755}", "the number '0o755' is not a mode", '"0755"'),
    ("mkdir: {path: /x, mode: 493}", "the number '493' is not a mode", '"0644"'),
    ('mkdir: {path: /x, mode: "0888"}', "'0888' is not a mode", "octal"),
    ('mkdir: {path: /x, mode: "77777"}', "'77777' is not a mode", "octal"),
    ('mkdir: {path: /x, mode: "-755"}', "'-755' is not a mode", "octal"),
    ('mkdir: {path: /x, mode: ""}', "'' is not a mode", "octal"),
    ("mkdir: {path: /x, mode: [7, 5, 5]}", "expected a mode, found a list", '"0644"'),
    ("mkdir: var/lib", "'var/lib' is not an absolute path", "'/var/lib'"),
    ("mkdir: ./x", "'./x' is not an absolute path", "'/x'"),
    ("mkdir: ~/x", "'~/x' is not an absolute path", "start with '/'"),
    ('mkdir: ""', "an empty path", ""),
    ("mkdir: /a/../../etc", "'..' in the path", "without '..'"),
    ("mkdir: /", "'/' is the root itself", "below '/'"),
    ("remove: /", "'/' is the root itself", ""),
    ("remove: [/a, //.]", "'//.' is the root itself", ""),
    ("remove: []", "found an empty list", ""),
    ("remove: *.pyc", "start the name of an anchor", "in quotes"),
    ('remove: "*.pyc"', "'*.pyc' is not an absolute path", ""),
    ("copy: ../x -> /y", "'../x' leaves the context", "inside the folder"),
    ("copy: a/../../x -> /y", "leaves the context", ""),
    ("copy: /etc/passwd -> /y", "'/etc/passwd' is not inside the context", "relative to the context"),
    ("copy: a -> y", "'y' is not an absolute path", "'/y'"),
    ("copy: a => /y", "'a => /y' is not 'SOURCE -> /TARGET'", "'a -> /y'"),
    ("copy: a:/y", "is not 'SOURCE -> /TARGET'", "'a -> /y'"),
    ("copy: a -> b -> /c", "is not 'SOURCE -> /TARGET'", ""),
    ("copy: a b -> /c", "one source fits before '->'", "[a, b]"),
    ("copy: {from: [], to: /b}", "found an empty list", ""),
    ("copy: {from: a}", "no 'to' in 'copy'", "to: /app"),
    ("copy: {form: a, to: /b}", "unknown key 'form'", "'from'"),
    ("copy: {src: a, dest: /b}", "unknown key 'src'", "'from'"),
    ("copy: {from: a, to: /b, chown: app}", "unknown key 'chown'", "'owner'"),
    ("write: /etc/motd", "expected a mapping, found the text '/etc/motd'", "write: {to: /etc/motd"),
    ("write: {to: /etc/motd}", "no 'text' in 'write'", ""),
    ("symlink: {path: /a, target: ''}", "an empty target", ""),
    ("user: ''", "no user in ''", "NAME"),
    ("user: ':www'", "no user in ':www'", ""),
    ("user: 'a b'", "'a b' is not a user", ""),
    ("user: -x", "'-x' is not a user", ""),
    ("user: 1000abc", "'1000abc' is not a user", ""),
    ("user: 4294967295", "the user number '4294967295' is too large", "4294967294"),
    ("user: '1:99999999999999999999'", "the group number '99999999999999999999' is too large", ""),
    ("user: 'a:b:c'", "'b:c' is not a group", ""),
    ("user: ١٢", "is not a user", ""),
    ("env: {A=b: c}", "'A=b' is not the name of a variable", "'A: value'"),
    ("env: {'': c}", "an empty name", ""),
    ("env: {'A B': c}", "'A B' is not the name of a variable", ""),
    ("env: {A: [b]}", "expected a text, found a list", ""),
    ('env: {A: "b\\0c"}', "a NUL cannot be part of this", ""),
    ("env: A=b", "expected a mapping of variables, found the text 'A=b'", "{NAME: value}"),
    ("label: {'': x}", "'' is not the name of a label", ""),
    ('label: {"a\\nb": x}', "'a\\nb' is not the name of a label", ""),
    ("label: {'${{ x }}': x}", "arguments are put into values", ""),
    ("run:", "expected a command, found nothing", ""),
    ("run: ''", "an empty command", ""),
    ("run: ' '", "an empty command", ""),
    ("run: []", "an empty command", ""),
    ("run: ['', a]", "an empty program name", ""),
    ("run: [a, [b]]", "expected a text, found a list", ""),
    ("run: {command: make, shell: null}", "a command without a shell is a list", "[program"),
    ("run: {command: make, shell: bash}", "expected a command as a list, found the text 'bash'", "[bash]"),
    ("run: {env: {A: b}}", "no 'command' in 'run'", ""),
    ("{}", "an empty step", "'run'"),
    ("{run: a, run: b}", "the key 'run' is here twice", "Boxfile:4:6"),
    ("{env: {A: b}, label: {a: b}}", "a step does one thing; this one has 'env' and 'label'", ""),
    ("{env: {A: b}, network: none}", "unknown key 'network'", "start another step"),
    ("[run, make]", "expected a step, found a list", ""),
]
CONFIG_VALUES = [
    ("expose: 8080", "expected a list of ports, found the value '8080'", "[8080]"),
    ("expose: [0]", "'0' is not a port", ""),
    ("expose: [65536]", "'65536' is not a port", "65535"),
    ("expose: [8080/tpc]", "'tpc' is not a protocol", "'tcp'"),
    ("expose: [90-80]", "'90-80' is not a range", "smaller first"),
    ("expose: [1-65535]", "is not a range", "at most 1000"),
    ("expose: [http]", "'http' is not a port", ""),
    ("volumes: [data]", "'data' is not an absolute path", "'/data'"),
    ("volumes: [/a, /a]", "'/a' is here twice", ""),
    ("stop_signal: SIGTREM", "'SIGTREM' is not a signal", "'SIGTERM'"),
    ("stop_signal: 0", "'0' is not a signal", ""),
    ("stop_signal: 65", "'65' is not a signal", ""),
    ("stop_signal: SIGRTMIN+31", "is not a signal", ""),
    ("reset: [mode]", "'mode' is not a field of the config", ""),
    ("reset: cmd", "expected a list of fields, found the text 'cmd'", "[cmd]"),
    ("ports: [80]", "unknown key 'ports'", "'expose'"),
    ("workdir: app", "'app' is not an absolute path", "'/app'"),
    ("healthcheck: curl", "expected a health check, found the text 'curl'", "command"),
    ("healthcheck: {interval: 30s}", "no 'command' in 'healthcheck'", ""),
    ("healthcheck: {command: a, interval: 30}", "the duration '30' has no unit", "'30s'"),
    ("healthcheck: {command: a, interval: 1s1m}", "'1s1m' is not a duration", "1m30s"),
    ("healthcheck: {command: a, interval: 1.2.3s}", "is not a duration", ""),
    ("healthcheck: {command: a, interval: -1s}", "is not a duration", ""),
    ("healthcheck: {command: a, interval: ''}", "'' is not a duration", ""),
    ("healthcheck: {command: a, interval: 3000000h}", "is not a duration", ""),
    ("healthcheck: {command: a, retries: many}", "'many' is not a number", ""),
    ("healthcheck: {test: a}", "unknown key 'test'", "'command'"),
]
BASES = [
    ("debian.tar", "reads as the name of an image", "'./debian.tar'"),
    ("images/x.tar.gz", "reads as the name of an image", "'./images/x.tar.gz'"),
    ("./debian", "'./debian' is not the name of a tarball", ".tar.zst"),
    ("./a/../../x.tar", "outside of the context", ""),
    ("/x.tar", "outside of the context", "./NAME"),
    ("~/x.tar", "outside of the context", ""),
    ("http://example.org/x.tar", "plain http is not trusted", "https"),
    ("ftp://example.org/x.tar", "'ftp' is not a kind of base", "./FILE.tar"),
    ("Debian", "no capital letters", "'debian'"),
    ("'debian:'", "an empty tag", ""),
    ("debian:-x", "'-x' is not a tag", ""),
    ("-debian", "'-debian' is not the name of an image", ""),
    ("a..b", "'a..b' is not the name of an image", ""),
    ("a___b", "is not the name of an image", ""),
    ("'a b'", "is not the name of an image", ""),
    ('"a\\r\\nb"', "'a\\r\\nb' is not the name of an image", ""),
    ("x@sha256:abc", "'sha256:abc' is not a digest", "64"),
    ("-.x/y", "'-.x' is not a registry's host", ""),
    ("{host: []}", "found an empty list", ""),
    ("{host: sh}", "expected a list of programs, found the text 'sh'", "[sh]"),
    ("{host: [bin/sh]}", "neither a name nor an absolute path", ""),
    ("{host: [/a/../b]}", "is not a program", ""),
    ("{host: [sh, sh]}", "'sh' is here twice", ""),
    ("{hots: [sh]}", "unknown key 'hots'", "'host'"),
    ("{}", "this base says nothing", ""),
    ("[scratch]", "expected a base, found a list", ""),
    ("null", "expected a base, found null", ""),
]
NAMES = [
    ("Shop/Api", "no capital letters", "'shop/api'"),
    ("x@sha256:" + "0" * 64, "a name to give has no digest", "'x'"),
    ('""', "an empty name", ""),
    ('"-t"', "'-t' is not the name of an image", ""),
    ("a:b:c", "'b:c' is not a tag", ""),
]


def refuse(text: str, message: str, hint: str, line: int) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.line == line


@pytest.mark.parametrize(("step", "message", "hint"), STEP_VALUES)
def test_a_step_with_a_wrong_value_is_refused(step: str, message: str, hint: str) -> None:
    refuse(f"box: 1\nbase: scratch\nsteps:\n  - {step}\n", message, hint, 4)


@pytest.mark.parametrize(("config", "message", "hint"), CONFIG_VALUES)
def test_a_config_with_a_wrong_value_is_refused(config: str, message: str, hint: str) -> None:
    refuse(f"box: 1\nbase: scratch\nconfig:\n  {config}\n", message, hint, 4)


@pytest.mark.parametrize(("base", "message", "hint"), BASES)
def test_a_wrong_base_is_refused(base: str, message: str, hint: str) -> None:
    refuse(f"box: 1\nbase: {base}\n", message, hint, 2)


@pytest.mark.parametrize(("name", "message", "hint"), NAMES)
def test_a_wrong_name_is_refused(name: str, message: str, hint: str) -> None:
    refuse(f"box: 1\nname: {name}\nbase: scratch\n", message, hint, 2)


@pytest.mark.parametrize("signal", ["SIGTERM", "9", "64", "SIGRTMIN", "SIGRTMIN+3", "SIGRTMAX-2"])
def test_a_signal_is_kept_as_it_is_written(signal: str) -> None:
    config = parse(f"box: 1\nbase: scratch\nconfig: {{stop_signal: {signal}}}\n").config
    assert config is not None
    assert config.stop_signal == signal
