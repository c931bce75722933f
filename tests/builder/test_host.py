"""The host base: what programs need, found without running any of them, and that it suffices to run them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import elf, host, pyc
from builder.hostlibs import read_configuration
from builder.inputs import StatCache
from store.errors import BoxfileError, BuildError
from tests.builder.building import Site, drafts


@pytest.fixture
def cache(tmp_path: Path) -> StatCache:
    return StatCache(str(tmp_path / "cache"), drafts(tmp_path))


def programs(*, limit: int) -> list[str]:
    """Dynamic programs of this machine, a sample that is the same every time."""
    found = []
    for path in sorted(Path("/usr/bin").iterdir()):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                data = file.read(1 << 20)
            needs = elf.parse(memoryview(data))
            if needs is not None and needs.interpreter and needs.needed:
                found.append(str(path))
    return found[:: max(1, len(found) // limit)]


def by_ldd(path: str) -> set[str]:
    """The real paths of the libraries that the loader itself reports."""
    text = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return {os.path.realpath(name) for name in re.findall(r"(?:=> )?(/\S+) \(0x", text)}


@pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd to compare with")
@pytest.mark.parametrize("program", programs(limit=25))
def test_libraries_are_those_that_the_loader_reports(program: str, cache: StatCache) -> None:
    found = host.closure((program,), cache)
    files = {"/" + path.decode() for path, entry in found.entries.items() if entry.kind == "file"}
    assert by_ldd(program) <= files
    assert files - by_ldd(program) - {os.path.realpath(program)} <= {name for name in files if "python" in name}


def test_links_on_the_way_stay_links(cache: StatCache) -> None:
    found = host.closure(("sh",), cache)
    shell = Path("/bin/sh")
    if shell.is_symlink():
        assert found.entries[os.fsencode(str(shell.parent.resolve() / "sh"))[1:]].target == os.fsencode(os.readlink(shell))
    if Path("/bin").is_symlink():
        assert found.entries[b"bin"].target == os.fsencode(os.readlink("/bin"))


def test_every_link_in_a_closure_leads_to_something_in_it_or_out_of_the_tree(cache: StatCache) -> None:
    found = host.closure(("sh", "ls", "cat"), cache)
    for path, entry in found.entries.items():
        if entry.kind == "symlink":
            assert os.path.realpath(b"/" + path)[1:] in found.entries


def test_a_program_that_is_not_there_is_an_error(cache: StatCache) -> None:
    with pytest.raises(BuildError, match="this machine has no program 'no-such-thing'") as caught:
        host.closure(("no-such-thing",), cache)
    assert "/usr/bin" in caught.value.hint
    with pytest.raises(BuildError, match="this machine has no '/no/such/file'"):
        host.closure(("/no/such/file",), cache)


def test_the_callers_path_does_not_count(cache: StatCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no program 'mine'"):
        host.closure(("mine",), cache)


@pytest.mark.parametrize("line", ["#!/bin/sh", "#! /bin/sh -e", "#!/usr/bin/env sh", "#!/usr/bin/env -S sh -e"])
def test_a_script_brings_its_interpreter(cache: StatCache, tmp_path: Path, line: str) -> None:
    script = tmp_path / "script"
    script.write_text(line + "\n")
    script.chmod(0o755)
    found = host.closure((str(script),), cache)
    assert os.path.realpath(b"/bin/sh")[1:] in found.entries
    if "env" in line:
        assert os.path.realpath(b"/usr/bin/env")[1:] in found.entries


def test_a_script_for_an_interpreter_that_is_not_there_is_taken_as_it_is(cache: StatCache, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/thing\n")
    script.chmod(0o755)
    assert os.fsencode(str(script))[1:] in host.closure((str(script),), cache).entries


def test_a_directory_is_taken_whole_and_a_second_look_reads_nothing(
    cache: StatCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/f").write_text("x")
    os.utime(tmp_path / "data/deep/f", (1, 1))
    cache.clock = lambda: 1 << 62
    first = host.closure((str(tmp_path / "data"), "ls"), cache)
    assert os.fsencode(str(tmp_path / "data/deep/f"))[1:] in first.entries
    monkeypatch.setattr(host, "read_facts", lambda path: pytest.fail(f"{path!r} was read again"))
    assert host.closure((str(tmp_path / "data"), "ls"), cache).facts() == first.facts()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"\x7fELF" + bytes(60),
        b"\x7fELF\x02\x01" + b"\xff" * 200,
        b"\x7fELF\x01\x02" + b"\xff" * 200,
        b"#!/bin/sh\n" * 9,
    ],
)
def test_what_is_no_elf_file_is_none_and_no_error(data: bytes) -> None:
    found = elf.parse(memoryview(data))
    assert found is None or not found.needed


def test_an_elf_file_cut_anywhere_is_no_error() -> None:
    data = memoryview(Path("/bin/sh").read_bytes())
    assert elf.parse(data) is not None
    for length in range(0, len(data), 997):
        elf.parse(data[:length])


def test_ld_so_conf_is_read_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/b.conf").write_text("# a comment\n/b/\n")
    (tmp_path / "conf.d/a.conf").write_text("/a1 /a2=libc6\n")
    (tmp_path / "ld.so.conf").write_text("/first\ninclude conf.d/*.conf\nhwcap 1 x\n/last # why\n")
    assert read_configuration(os.fsencode(str(tmp_path / "ld.so.conf"))) == [b"/first", b"/a1", b"/a2", b"/b", b"/last"]


def test_an_ld_so_conf_that_includes_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "ld.so.conf").write_text("/a\ninclude ld.so.conf\n")
    assert set(read_configuration(os.fsencode(str(tmp_path / "ld.so.conf")))) == {b"/a"}


def test_bytecode_without_a_time_is_believed_by_python(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("VALUE = 'compiled'\n")
    subprocess.run([sys.executable, "-m", "py_compile", str(source)], check=True)
    compiled = next((tmp_path / "__pycache__").iterdir())
    assert pyc.Bytecode(pyc.header(compiled.read_bytes())).is_of(os.fsencode(str(compiled)))
    compiled.write_bytes(pyc.unchecked(compiled.read_bytes()))
    source.write_text("VALUE = 'from the source'\n")
    shown = subprocess.run(
        [sys.executable, "-c", "import module; print(module.VALUE)"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert shown == "compiled\n"


def test_bytecode_older_than_its_source_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("VALUE = 1\n")
    subprocess.run([sys.executable, "-m", "py_compile", str(source)], check=True)
    compiled = next((tmp_path / "__pycache__").iterdir())
    source.write_text("VALUE = 22\n")
    assert not pyc.Bytecode(pyc.header(compiled.read_bytes())).is_of(os.fsencode(str(compiled)))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert made.leftovers() == []


@pytest.mark.needs("root", "overlay")
def test_programs_of_this_machine_run_in_an_image_from_nothing(site: Site) -> None:
    built = site.build("run: ls -ld /tmp; ls -ld /root; id -un; id -un nobody; ls /etc", base="{host: [sh, ls, id]}")
    lines = site.told.lines
    assert lines[0].startswith("drwxrwxrwt") and lines[1].startswith("drwx------")
    assert lines[2:4] == ["root", "nobody"]
    assert {"passwd", "group", "nsswitch.conf"} <= set(lines[4:])
    assert site.config(built)["Cmd"] == ["/bin/sh"]


@pytest.mark.needs("root", "overlay")
def test_python_brings_its_library_and_its_bytecode(site: Site) -> None:
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("this machine has no /usr/bin/python3")
    site.build(
        "run: [/usr/bin/python3, -c, 'import json, ctypes, hashlib; print(json.dumps([1]))']",
        "run: [/usr/bin/python3, -v, -c, 'import json.decoder']",
        base="{host: [/usr/bin/python3, sh]}",
    )
    assert site.told.lines[0] == "[1]"
    assert any(re.match(r"# code object from '.*json/__pycache__/decoder.*\.pyc'", line) for line in site.told.lines)


@pytest.mark.needs("root", "overlay")
def test_the_layer_is_the_same_on_every_build_and_owned_by_root(site: Site, tmp_path: Path) -> None:
    import tarfile

    other = Site(tmp_path / "other")
    before = os.umask(0o077)
    try:
        first = site.build(base="{host: [sh, ls]}")
        os.umask(0)
        second = other.build(base="{host: [sh, ls]}")
    finally:
        os.umask(before)
    assert first.descriptor == second.descriptor
    layer = site.store.images.load(first.descriptor).layers[0]
    with tarfile.open(site.store.blobs.path(layer.descriptor.digest)) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.mtime) == (0, 0, 315532800)
            assert member.mode in (0o755, 0o644, 0o777) or member.name in ("tmp", "root")


@pytest.mark.needs("root", "overlay")
def test_a_program_that_changed_on_this_machine_is_named_in_the_miss(site: Site, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    site.build(base=f"{{host: [{tool}]}}")
    site.build(base=f"{{host: [{tool}]}}")
    assert site.told.cached == [0]
    tool.write_text("#!/bin/sh\necho changed\n")
    site.build(base=f"{{host: [{tool}]}}")
    assert site.told.missed == {0: f"{str(tool)[1:]} changed"}


@pytest.mark.needs("root")
def test_a_program_that_is_not_there_is_told_at_the_place_of_the_base(site: Site) -> None:
    with pytest.raises(BoxfileError, match="this machine has no program 'nope'") as caught:
        site.build(base="{host: [nope]}")
    assert (caught.value.line, caught.value.column) == (2, 7)
