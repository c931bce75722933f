"""Whole builds: what is cached and why not, what comes into layers, and what a failure says."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import BoxfileError, BuildError, StoreError, UsageError
from tests.builder.building import Site

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay")]

HOST = "{host: [sh, cat, ls, id, env, mkdir, chown, rm, sleep, touch]}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert made.leftovers() == []


FILES = ("copy: src/ -> /app", 'write: {to: /etc/motd, text: "hello\\n"}', "env: {A: b}", "mkdir: /srv", "workdir: /srv/x")


def test_a_second_build_is_cached_and_gives_the_same_image(site: Site) -> None:
    site.fill(src__a_py="1", src__b_py="2")
    first = site.build(*FILES)
    assert site.told.missed == dict.fromkeys((1, 2, 4, 5), "never built here")
    assert [step.layer != "" for step in first.steps] == [True, True, False, True, True]
    second = site.build(*FILES)
    assert site.told.missed == {}
    assert site.told.cached == [1, 2, 4, 5]
    assert second.descriptor == first.descriptor
    assert second.reference == "test:latest"
    assert site.store.references.get("test") == first.descriptor


def test_a_cached_build_touches_no_tree(site: Site) -> None:
    site.fill(src__a_py="1")
    first = site.build(*FILES)
    shutil.rmtree(site.root / "snapshots")
    assert site.build(*FILES).descriptor == first.descriptor
    assert os.listdir(site.root / "snapshots") == ["empty"]


def test_a_miss_names_the_file_that_changed_and_later_steps_the_step(site: Site) -> None:
    site.fill(src__a_py="1", src__b_py="2")
    site.build(*FILES)
    site.fill(src__a_py="changed")
    (site.context / "src/b.py").unlink()
    site.build(*FILES)
    assert site.told.missed[1] == "src/a.py changed, and 1 more change"
    assert set(site.told.missed) == {1, 2, 4, 5}
    assert site.told.missed[2] == "step 1 above it changed"


def test_a_file_touched_but_not_changed_is_a_hit(site: Site) -> None:
    site.fill(src__a_py="1")
    site.build(*FILES)
    os.utime(site.context / "src/a.py")
    (site.context / "src/a.py").chmod(0o600)
    site.build(*FILES)
    assert site.told.missed == {}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("copy: src/ -> /app", "copy: src/ -> /opt", "the step's text changed"),
        ("copy: src/ -> /app", 'copy: {from: src/, to: /app, mode: "0600"}', "the step's text changed"),
    ],
)
def test_a_miss_names_the_text(site: Site, before: str, after: str, reason: str) -> None:
    site.fill(src__a_py="1")
    site.build(before)
    site.build(after)
    assert site.told.missed[1].startswith(reason)


def test_the_format_of_a_step_is_not_its_text(site: Site) -> None:
    site.fill(src__a_py="1")
    site.build("copy: src/ -> /app")
    site.build("copy: {to: /app, from: [src/]}   # the same")
    assert site.told.missed == {}


def test_a_layer_that_is_gone_is_made_again_to_the_same_image(site: Site) -> None:
    site.fill(src__a_py="1")
    first = site.build(*FILES)
    layer = site.store.images.load(first.descriptor).layers[0]
    os.unlink(site.store.blobs.path(layer.descriptor.digest))
    again = site.build(*FILES)
    assert site.told.missed == {1: "its layer is gone"}
    assert again.descriptor == first.descriptor


def test_without_the_cache_every_step_is_done(site: Site) -> None:
    site.fill(src__a_py="1")
    first = site.build(*FILES)
    assert site.build(*FILES, no_cache=True).descriptor == first.descriptor
    assert site.told.missed == dict.fromkeys((1, 2, 4, 5), "the cache is not used")


def test_a_step_done_again_to_the_same_layer_leaves_the_later_ones_cached(site: Site) -> None:
    steps = ["write: {to: /a, text: x}", "mkdir: /b"]
    site.build(*steps)
    site.build('write: {to: /a, text: x, mode: "0644", owner: "0"}', steps[1])
    assert set(site.told.missed) == {1}


def test_another_epoch_is_another_image_and_the_miss_says_so(site: Site) -> None:
    first = site.build("mkdir: /a", epoch=1_000_000_000)
    second = site.build("mkdir: /a", epoch=1_000_000_001)
    assert site.told.missed == {1: "SOURCE_DATE_EPOCH changed"}
    assert first.descriptor != second.descriptor
    config = site.store.images.load(first.descriptor).config
    assert config["created"] == "2001-09-09T01:46:40Z"


def test_source_date_epoch_counts_where_no_epoch_is_given(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    given = site.build("mkdir: /a", epoch=1_000_000_000)
    assert site.build("mkdir: /a").descriptor == given.descriptor


@pytest.mark.parametrize("text", ["yesterday", "-1", "1.5", "²", "99999999999", "0x10", " 1"])
def test_a_source_date_epoch_that_is_none_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        site.build("mkdir: /a")


def test_an_image_as_the_base_hands_on_its_config(site: Site) -> None:
    site.build(
        "env: {A: base, B: base}", "label: {one: base}", "workdir: /srv", 'user: "7"',
        config="{entrypoint: [/bin/a], cmd: [x], volumes: [/data], expose: [80/tcp], stop_signal: SIGINT}", tag="base",
    )  # fmt: skip
    built = site.build("env: {B: own}", base="base", config="{reset: [volumes, user], cmd: [y]}")
    assert site.config(built) == {
        "Env": ["A=base", "B=own"],
        "Labels": {"one": "base"},
        "WorkingDir": "/srv",
        "Entrypoint": ["/bin/a"],
        "Cmd": ["y"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
    }
    assert len(site.layers(built)) == 1


def test_an_entrypoint_without_a_cmd_drops_the_bases_cmd(site: Site) -> None:
    site.build(config="{entrypoint: [/bin/a], cmd: [for, a]}", tag="base")
    assert "Cmd" not in site.config(site.build(base="base", config="{entrypoint: [/bin/b]}"))


def test_a_base_that_changed_is_named_in_the_miss(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    other.root = site.root
    other.build("mkdir: /a", tag="base")
    site.build("mkdir: /b", base="base")
    other.build("mkdir: /c", tag="base")
    site.build("mkdir: /b", base="base")
    assert site.told.missed == {1: "the base changed"}


@pytest.mark.parametrize("base", ["./nothing.tar", "nothing", "{host: [no-such-program-anywhere]}"])
def test_a_base_that_is_not_there_is_an_error_at_its_place(site: Site, base: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        site.build(base=base)
    assert (caught.value.line, caught.value.path) == (2, str(site.context / "Boxfile"))
    assert caught.value.hint


def test_a_base_that_is_no_tar_is_an_error_at_its_place(site: Site) -> None:
    (site.context / "rootfs.tar").write_bytes(b"this is no tar" * 1000)
    with pytest.raises(BoxfileError) as caught:
        site.build(base="./rootfs.tar")
    assert caught.value.line == 2


@pytest.mark.parametrize("compression", ["", "gz"])
def test_a_tarball_is_known_again_by_its_content(site: Site, tmp_path: Path, compression: str) -> None:
    import tarfile

    suffix = f".{compression}" if compression else ""
    (tmp_path / "f").write_text("x")
    with tarfile.open(site.context / f"rootfs.tar{suffix}", f"w:{compression}") as tar:
        tar.add(tmp_path / "f", "f")
    first = site.build("mkdir: /a", base=f"./rootfs.tar{suffix}")
    assert site.told.missed == {0: "never built here", 1: "never built here"}
    os.utime(site.context / f"rootfs.tar{suffix}")
    assert site.build("mkdir: /a", base=f"./rootfs.tar{suffix}").descriptor == first.descriptor
    assert site.told.missed == {}
    other = Site(tmp_path / "other")  # the same tarball elsewhere: another Boxfile, the same key
    other.root = site.root
    shutil.copy(site.context / f"rootfs.tar{suffix}", other.context)
    assert other.build("mkdir: /a", base=f"./rootfs.tar{suffix}").descriptor == first.descriptor
    assert 1 in other.told.cached


def test_a_directory_as_the_tarball_is_an_error_at_its_place(site: Site) -> None:
    (site.context / "rootfs.tar").mkdir()
    with pytest.raises(BoxfileError, match=r"rootfs\.tar is no file") as caught:
        site.build(base="./rootfs.tar")
    assert caught.value.line == 2


def test_a_tarball_as_the_base_is_the_first_layer_as_it_is(site: Site, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/motd").write_text("from the tarball")
    with tarfile.open(site.context / "rootfs.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "rootfs", ".")
    first = site.build("mkdir: /etc/more", base="./rootfs.tar.gz")
    assert site.read(first, "etc/motd") == "from the tarball"
    assert site.build("mkdir: /etc/more", base="./rootfs.tar.gz").descriptor == first.descriptor
    assert site.told.cached == [0, 1]
    (tmp_path / "rootfs/etc/motd").write_text("changed")
    with tarfile.open(site.context / "rootfs.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "rootfs", ".")
    site.build("mkdir: /etc/more", base="./rootfs.tar.gz")
    assert site.told.missed == {0: "./rootfs.tar.gz changed", 1: "the base changed"}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("copy: nothing -> /x", "'nothing' is not in the build's directory"),
        ("remove: [/nothing]", "/nothing is not in the image, so it cannot be removed"),
        ("write: {to: /x, text: y, owner: app}", "no user 'app' in the image's /etc/passwd"),
        ("copy: {from: odd, to: /x/}", "/x/.wh.odd cannot be kept in a layer"),
    ],
)
def test_an_error_names_the_step_with_its_place(site: Site, step: str, message: str) -> None:
    (site.context / "odd").mkdir()
    (site.context / "odd/.wh.odd").write_text("")
    with pytest.raises(BuildError) as caught:
        site.build("mkdir: /first", step)
    assert caught.value.message.startswith(message)
    assert caught.value.step.startswith(f"{site.context}/Boxfile:5: {step.partition(':')[0]}")
    assert caught.value.hint


def test_a_failed_build_leaves_the_name_where_it_was(site: Site) -> None:
    first = site.build("mkdir: /a")
    with pytest.raises(BuildError):
        site.build("mkdir: /b", "copy: nothing -> /x")
    assert site.store.references.get("test") == first.descriptor


@pytest.mark.parametrize("tag", ["../evil", "A", "-x", "a\nb", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_done(site: Site, tag: str) -> None:
    with pytest.raises((StoreError, UsageError)):
        site.build("mkdir: /a", tag=tag)
    assert site.told.started == []


def test_an_image_without_a_name_is_known_by_its_digest(site: Site) -> None:
    built = site.build("mkdir: /a", tag=None)
    assert built.reference is None
    assert site.store.references.resolve(str(built.descriptor.digest)).descriptor == built.descriptor


def test_history_has_a_line_for_every_step_and_for_the_base(site: Site) -> None:
    built = site.build("env: {A: b}", "mkdir: /a", base="{host: [true]}")
    history = site.store.images.load(built.descriptor).config["history"]
    assert history == [
        {"created": "1980-01-01T00:00:00Z", "created_by": "base: host: [true]"},
        {"created": "1980-01-01T00:00:00Z", "created_by": "env: {A: b}", "empty_layer": True},
        {"created": "1980-01-01T00:00:00Z", "created_by": "mkdir: /a"},
    ]


def test_a_cached_build_reads_no_file_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder import inputs

    for number in range(200):
        path = site.context / f"src/d{number % 10}/f{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    time.sleep(0.12)  # files written just now are not believed yet
    read: list[int] = []
    digest_of = inputs.digest_of
    monkeypatch.setattr(inputs, "digest_of", lambda descriptor, size: read.append(descriptor) or digest_of(descriptor, size))
    site.build(*FILES)
    assert len(read) == 200
    site.build(*FILES)
    assert len(read) == 200


def test_a_source_that_is_not_there_is_told_before_the_first_step(site: Site) -> None:
    site.fill(a="1")
    for source in ("nope", "*.nope"):
        step = f"copy: {{from: [a, '{source}'], to: /b/}}"
        site.fill(Boxfile=f"box: 1\nbase: scratch\nsteps:\n  - mkdir: /done\n  - copy: a -> /a\n  - {step}\n")
        with pytest.raises(BuildError) as caught:
            site.build("mkdir: /done", "copy: a -> /a", step)
        place = caught.value.place
        assert place is not None
        assert (place.line, place.source[place.column - 1 :][: place.width]) == (6, source)
    assert site.told.started == site.told.done == []


def test_a_step_that_fails_is_shown_with_its_line(site: Site) -> None:
    site.fill(Boxfile="box: 1\nbase: scratch\nsteps:\n  - mkdir: {path: /a, owner: nobodyy}\n")
    with pytest.raises(BuildError) as caught:
        site.build("mkdir: {path: /a, owner: nobodyy}")
    place = caught.value.place
    assert place is not None
    assert (place.line, place.column, place.width) == (4, 30, 7)
    assert place.source == "  - mkdir: {path: /a, owner: nobodyy}"
