"""What the texts of options mean, and what is refused."""

from collections.abc import Callable

import pytest

from boxcli import readers


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (readers.size, "4096", 4096),
        (readers.size, "512b", 512),
        (readers.size, "64k", 64 << 10),
        (readers.size, "64M", 64 << 20),
        (readers.size, "64mb", 64 << 20),
        (readers.size, "64MiB", 64 << 20),
        (readers.size, "1.5g", 3 << 29),
        (readers.size, "1t", 1 << 40),
        (readers.cpus, "0.5", 0.5),
        (readers.cpus, "2", 2.0),
        (readers.cpus, "0", 0.0),
        (readers.limit, "0", -1),
        (readers.limit, "-1", -1),
        (readers.cpus, ".25", 0.25),
        (readers.seconds, "0", 0.0),
        (readers.seconds, "0.5", 0.5),
        (readers.seconds, "30", 30.0),
        (readers.count, "7", 7),
        (readers.signal, "TERM", 15),
        (readers.signal, "sigkill", 9),
        (readers.signal, "RTMIN+2", 36),
        (readers.signal, "10", 10),
        (readers.host, "db:10.0.0.1", "db:10.0.0.1"),
        (readers.host, "db:[::1]", "db:::1"),
        (readers.host, "db:::1", "db:::1"),
        (readers.security, "no-new-privileges", "no-new-privileges=true"),
        (readers.security, "no-new-privileges:false", "no-new-privileges=false"),
        (readers.security, "seccomp=unconfined", "seccomp=unconfined"),
        (readers.ulimit, "nofile=10", ("nofile", 10, 10)),
        (readers.ulimit, "nofile=10:-1", ("nofile", 10, -1)),
        (readers.ulimit, "core=unlimited", ("core", -1, -1)),
    ],
)  # fmt: skip
def test_a_text_has_its_value(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((readers.size, text) for text in ("", "k", "m1", "1x", "-1", "1..2", "1.", ".5g", "1ib", "٣m", "1e3", "9" * 30, "1kk")),
        *((readers.cpus, text) for text in ("", ".", "-1", "1.", "nan", "inf", "1e3", "0.001")),
        *((readers.seconds, text) for text in ("", "-1", "1s", "nan", "x")),
        *((readers.count, text) for text in ("", "0", "-1", "+1", "1.0", " 1", "1" * 30)),
        *((readers.name, text) for text in ("", "-x", ".x", "a/b", "a b", "a\n", "é", "x" * 129)),
        *((readers.hostname, text) for text in ("", "-a", ".a", "a_b", "a b", "a\nb", "a/b", "x" * 65)),
        *((readers.host, text) for text in ("", "a", "a:", ":1.2.3.4", "a:1.2.3.4\n6.6.6.6 bank", "a b:1.2.3.4", "a:x.y")),
        *((readers.variable, text) for text in ("", "=x")),
        *((readers.directory, text) for text in ("", "a", "./a")),
        *((readers.bind, text) for text in ("", ":/a", "/a:", "/a:b", "/a:/b:", "/a:/b:rx", "/a:/b:ro:ro", "-volume:/data")),
        *((readers.tmpfs, text) for text in ("", "a", "/a:size=x", "/a:mode=9", "/a:nonsense", "/a:size")),
        *((readers.signal, text) for text in ("", "0", "65", "-9", "NONE", "_DFL", "TERM+1", "SIG", "RTMIN+99", "RTMIN+x")),
        *((readers.network, text) for text in ("", "bridge", "HOST")),
        *((readers.security, text) for text in ("", "seccomp", "seccomp=x.json", "no-new-privileges=maybe", "label=disable")),
        *((readers.ulimit, text) for text in ("", "nofile", "nonesuch=1", "nofile=2:1", "nofile=x", "nofile=-1:5")),
    ],
)  # fmt: skip
def test_a_text_that_means_nothing_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        read(text)


def test_a_bind_has_its_source_its_target_and_whether_it_may_be_written() -> None:
    for text, expected in (("/a:/b", False), ("./a:/b:rw", False), ("..:/b:ro", True)):
        bind = readers.bind(text)
        assert (bind.source, bind.target, bind.read_only) == (text.partition(":")[0], "/b", expected)


def test_a_tmpfs_has_its_size_and_mode() -> None:
    mount = readers.tmpfs("/run:size=1m,mode=0755,nosuid")
    assert (mount.target, mount.size, mount.mode) == ("/run", 1 << 20, 0o755)
    mount = readers.tmpfs("/tmp")
    assert (mount.target, mount.size, mount.mode) == ("/tmp", None, 0o1777)
