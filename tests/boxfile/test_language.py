"""What each form of the language means."""

import pytest

from boxfile import (
    Config,
    CopyStep,
    EnvStep,
    Healthcheck,
    HostBase,
    ImageBase,
    LabelStep,
    MkdirStep,
    Place,
    Plan,
    RemoveStep,
    RunStep,
    ScratchBase,
    Step,
    SymlinkStep,
    TarballBase,
    UserStep,
    WorkdirStep,
    WriteStep,
    parse,
)
from store.errors import BoxfileError
from store.record import Record, fields_of

SH = ("/bin/sh", "-e", "-c")


def fields(record: Record) -> dict[str, object]:
    """The fields of a record that carry meaning."""
    return {name: value for name, value in fields_of(record).items() if name not in ("at", "text")}


def step(text: str) -> Step:
    (only,) = parse("box: 1\nbase: scratch\nsteps:\n  - " + text.replace("\n", "\n    ")).steps
    return only


def config(text: str) -> Config:
    made = parse(f"box: 1\nbase: scratch\nconfig: {text}\n").config
    assert made is not None
    return made


def test_the_smallest_boxfile_is_a_version_and_a_base() -> None:
    plan = parse("box: 1\nbase: scratch\n", path="dir/Boxfile")
    assert plan == Plan("dir/Boxfile", 1, None, {}, ScratchBase(Place(2, 7)), (), None)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("scratch", ScratchBase(Place(2, 7))),
        ("./debian.tar", TarballBase(Place(2, 7), "./debian.tar")),
        ("./a/b c.tar.gz", TarballBase(Place(2, 7), "./a/b c.tar.gz")),
        ("./x.tar.zst", TarballBase(Place(2, 7), "./x.tar.zst")),
        ("./x.tar.xz", TarballBase(Place(2, 7), "./x.tar.xz")),
        ("./x.tar.bz2", TarballBase(Place(2, 7), "./x.tar.bz2")),
        ("{host: [sh, ls, /usr/bin/python3]}", HostBase(Place(2, 7), ("sh", "ls", "/usr/bin/python3"))),
        ("debian:12", ImageBase(Place(2, 7), "debian:12")),
        ("localhost:5000/shop/api", ImageBase(Place(2, 7), "localhost:5000/shop/api")),
        ("registry.example/x@sha256:" + "0" * 64, ImageBase(Place(2, 7), "registry.example/x@sha256:" + "0" * 64)),
    ],
)
def test_a_base_is_what_its_form_says(text: str, base: object) -> None:
    assert parse(f"box: 1\nbase: {text}\n").base == base


@pytest.mark.parametrize(
    ("text", "kind", "meaning"),
    [
        ("run: make", RunStep, {"command": "make", "shell": SH}),
        ("run: |\n  set -e\n  make\n", RunStep, {"command": "set -e\nmake\n", "shell": SH}),
        ("run: [make, -j, 4]", RunStep, {"command": ("make", "-j", "4")}),
        ("run: true", RunStep, {"command": "true", "shell": SH}),
        ("run: {command: make, shell: [bash, -c]}", RunStep, {"command": "make", "shell": ("bash", "-c")}),
        ("run: {command: [make], shell: null}", RunStep, {"command": ("make",)}),
        (
            "run: make\nenv: {CI: 1}\nworkdir: /app\nuser: app\nnetwork: none",
            RunStep,
            {"command": "make", "shell": SH, "env": (("CI", "1"),), "workdir": "/app", "user": "app", "network": "none"},
        ),
        ("copy: src/ -> /app", CopyStep, {"sources": ("src/",), "to": "/app"}),
        ('copy: src/ -> /app\nmode: "755"', CopyStep, {"sources": ("src/",), "to": "/app", "mode": 0o755}),
        ("copy: {from: a, to: /b/}", CopyStep, {"sources": ("a",), "to": "/b/"}),
        (
            'copy: {from: [a, b], to: /c, owner: "1:2", mode: "0o600", exclude: ["*.pyc"]}',
            CopyStep,
            {"sources": ("a", "b"), "to": "/c", "owner": "1:2", "mode": 0o600, "exclude": ("*.pyc",)},
        ),
        ('write: {to: /etc/motd, text: "hi\\n"}', WriteStep, {"to": "/etc/motd", "content": "hi\n", "mode": 0o644}),
        (
            'write: {to: /x, text: "", mode: "4755", owner: root}',
            WriteStep,
            {"to": "/x", "content": "", "mode": 0o4755, "owner": "root"},
        ),
        ("mkdir: /var/lib/app", MkdirStep, {"path": "/var/lib/app", "mode": 0o755}),
        ("mkdir: {path: /x, owner: app:www}", MkdirStep, {"path": "/x", "mode": 0o755, "owner": "app:www"}),
        ("symlink: {path: /a, target: ../b}", SymlinkStep, {"path": "/a", "target": "../b"}),
        ("remove: /usr/share/doc/**", RemoveStep, {"patterns": ("/usr/share/doc/**",)}),
        ("remove: [/a, /b]", RemoveStep, {"patterns": ("/a", "/b")}),
        ('env: {A: b, EMPTY: ""}', EnvStep, {"values": (("A", "b"), ("EMPTY", ""))}),
        ("workdir: /app", WorkdirStep, {"path": "/app"}),
        ("user: app", UserStep, {"user": "app"}),
        ("user: 1000:1000", UserStep, {"user": "1000:1000"}),
        ("label: {org.example.title: api}", LabelStep, {"labels": (("org.example.title", "api"),)}),
    ],
)
def test_a_step_means_what_its_form_says(text: str, kind: type[Step], meaning: dict[str, object]) -> None:
    made = step(text)
    assert type(made) is kind
    defaults = {name: value for name, value in kind._defaults.items() if name not in meaning}
    assert fields(made) == {**defaults, **meaning}


def test_a_string_goes_to_the_shell_and_a_list_is_executed_as_it_is() -> None:
    assert RunStep(Place(1, 1), "", "make all", SH).argv == ("/bin/sh", "-e", "-c", "make all")
    assert RunStep(Place(1, 1), "", "make all", ("bash", "-ec")).argv == ("bash", "-ec", "make all")
    assert RunStep(Place(1, 1), "", ("make", "all")).argv == ("make", "all")


def test_the_config_has_every_field_of_the_image_config() -> None:
    made = config(
        "{entrypoint: [/app], cmd: [serve], env: {PORT: 8080}, workdir: /app, user: app, expose: [8080, 53/UDP, 90-92, 91], "
        "volumes: [/data], labels: {a: b}, stop_signal: SIGINT, reset: [volumes, cmd], "
        "healthcheck: {command: [ok], interval: 1m30s, timeout: 500ms, start_period: 0s, start_interval: 1.5s, retries: 3}}"
    )
    assert made == Config(
        Place(3, 9),
        entrypoint=("/app",),
        cmd=("serve",),
        env=(("PORT", "8080"),),
        workdir="/app",
        user="app",
        expose=("8080/tcp", "53/udp", "90/tcp", "91/tcp", "92/tcp"),
        volumes=("/data",),
        labels=(("a", "b"),),
        stop_signal="SIGINT",
        healthcheck=Healthcheck(
            made.healthcheck.at if made.healthcheck else Place(0, 0), ("ok",), 90 * 10**9, 5 * 10**8, 0, 15 * 10**8, 3
        ),
        reset=("volumes", "cmd"),
    )


def test_a_cmd_written_as_a_text_goes_to_a_shell() -> None:
    assert config("{cmd: python app.py}").cmd == (*SH, "python app.py")
    assert config("{entrypoint: exec app}").entrypoint == (*SH, "exec app")


def test_what_the_config_does_not_say_is_none_or_empty() -> None:
    assert fields(config("{}")) == dict(Config._defaults)


@pytest.mark.parametrize(
    "plain",
    ["no", "yes", "on", "off", "y", "true", "012", "0o17", "1:30", "3.10", "1_000", "2024-01-01", "1e3", "+1", ".5", "=", "0x1F"],
)
def test_a_plain_scalar_keeps_its_characters_where_a_text_is_wanted(plain: str) -> None:
    made = step(f"env: {{A: {plain}}}")
    assert isinstance(made, EnvStep)
    assert made.values == (("A", plain),)


@pytest.mark.parametrize("plain", ["", "~", "null", "Null", "NULL"])
def test_null_is_no_text(plain: str) -> None:
    with pytest.raises(BoxfileError, match="expected a text, found"):
        step(f"env: {{A: {plain}}}")


def test_every_step_carries_its_place_and_the_line_its_writer_wrote() -> None:
    plan = parse(
        "box: 1\nargs: {x: 1}\nbase: scratch\nsteps:\n  - run: echo ${{ x }}\n"
        "  - run: |\n      first\n      second\n  - {user: app}\n  - copy:\n      from: a\n      to: /b\n"
    )
    assert [(str(step.at), step.text) for step in plan.steps] == [
        ("5:5", "run: echo ${{ x }}"),
        ("6:5", "run: first …"),
        ("9:5", "user: app"),
        ("10:5", "copy: from: a to: /b"),
    ]


def test_the_text_of_a_step_is_one_line_of_at_most_200_characters() -> None:
    made = step("run: [" + "x, " * 2000 + "y]")
    assert len(made.text) == 200
    assert "\n" not in made.text


def test_an_alias_means_what_it_names_at_its_own_place() -> None:
    plan = parse(
        "box: 1\nbase: scratch\nsteps:\n  - &one {run: make}\n  - *one\n  - {env: &e {A: b}}\n  - {run: make, env: *e}\n"
    )
    assert fields(plan.steps[0]) == fields(plan.steps[1])
    assert plan.steps[1].at == Place(5, 5)
    last = plan.steps[3]
    assert isinstance(last, RunStep)
    assert last.env == (("A", "b"),)


def test_a_mistake_behind_an_alias_is_shown_where_the_alias_is() -> None:
    with pytest.raises(BoxfileError, match="expected an absolute path, found a list") as caught:
        parse("box: 1\nbase: scratch\nsteps:\n  - remove: &l [/a]\n  - workdir: *l\n")
    assert (caught.value.line, caught.value.column, caught.value.width) == (5, 14, 2)


def test_line_ends_byte_order_mark_and_document_start_make_no_difference() -> None:
    text = "box: 1\nbase: scratch\nsteps:\n  - run: |\n      a\n      b\n"
    assert parse("\ufeff" + text) == parse(text.replace("\n", "\r\n")) == parse(text)
    assert parse("---\n" + text).version == 1
    assert parse("%YAML 1.2\n---\n" + text + "...\n").version == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("include: [a.yaml]", "'include'"),
        ("stages: {}", "'stages'"),
        ("steps: [{fetch: {url: x}}]", "'fetch'"),
        ("steps: [{run: {command: a, mounts: []}}]", "'mounts'"),
        ("steps: [{run: a, fresh: 7d}]", "'fresh'"),
        ("steps: [{run: a, secrets: []}]", "'secrets'"),
        ("steps: [{run: a, limits: {}}]", "'limits'"),
        ("steps: [{run: a, timeout: 10m}]", "'timeout'"),
        ("steps: [{run: a, when: x}]", "'when'"),
        ("steps: [{copy: a -> /b, stage: x}]", "'stage'"),
        ("steps: [{copy: {from: a, to: /b, optional: true}}]", "'optional'"),
        ("steps: [{user: {name: a}}]", "creating an account with 'user: {...}'"),
    ],
)
def test_what_comes_later_is_said_to_come_later(text: str, what: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse("box: 1\nbase: scratch\n" + text)
    assert caught.value.message == f"{what} is not supported yet"
    assert caught.value.line == 3


@pytest.mark.parametrize("base", ["https://example.org/x.tar", "oci:dir:tag", "{stage: build}", "docker://debian"])
def test_a_base_that_comes_later_is_said_to_come_later(base: str) -> None:
    with pytest.raises(BoxfileError, match=r"is not supported yet$"):
        parse(f"box: 1\nbase: {base}\n")
