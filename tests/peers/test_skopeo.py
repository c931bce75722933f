"""skopeo and umoci read box's archives and the store itself, and what they write comes back as it was."""

import os
from pathlib import Path

import pytest

from tests.command.installed import run as box
from tests.peers import traveller
from tests.peers.conftest import say

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup")]

TAGGED = f"{traveller.NAME}:latest"


def copy(source: str, target: str, *options: str) -> None:
    say(["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, target])


@pytest.mark.needs("skopeo")
def test_skopeo_takes_the_archive_apart_and_together_again_and_the_digest_is_the_same(
    home: str, traveller_archive: Path, facts: str, tmp_path: Path
) -> None:
    layout = f"oci:{tmp_path}/layout:{TAGGED}"
    copy(f"oci-archive:{traveller_archive}", layout, "--preserve-digests", "--dest-oci-accept-uncompressed-layers")
    back = f"{tmp_path}/back.tar"
    copy(layout, f"oci-archive:{back}:{TAGGED}", "--preserve-digests", "--dest-oci-accept-uncompressed-layers")
    box("load", "-i", back)
    assert traveller.digests(os.environ["BOX_ROOT"], traveller.NAME) == traveller.digests(home, traveller.NAME)
    assert box("run", "--rm", "--userns", "host", traveller.NAME).stdout == facts


@pytest.mark.needs("skopeo")
def test_skopeo_compresses_the_layers_and_the_image_is_the_same(
    home: str, traveller_archive: Path, facts: str, tmp_path: Path
) -> None:
    """Left to itself skopeo gzips what it copies: another manifest, the same image."""
    copy(f"oci-archive:{traveller_archive}", f"oci:{tmp_path}/layout:{TAGGED}")
    box("load", "-i", f"{tmp_path}/layout")
    ours, before = traveller.digests(os.environ["BOX_ROOT"], traveller.NAME), traveller.digests(home, traveller.NAME)
    assert ours[0] == before[0]
    assert ours[1] != before[1]
    assert box("run", "--rm", "--userns", "host", traveller.NAME).stdout == facts


@pytest.mark.needs("skopeo")
def test_skopeo_reads_the_archive_as_docker_would(home: str, traveller_archive: Path, facts: str, tmp_path: Path) -> None:
    archive = f"{tmp_path}/docker.tar"
    copy(f"docker-archive:{traveller_archive}", f"docker-archive:{archive}:{TAGGED}")
    loaded = box("load", "-q", "-i", archive).stdout.strip()
    assert loaded == traveller.digests(home, traveller.NAME)[0]
    assert box("run", "--rm", "--userns", "host", loaded).stdout == facts


@pytest.mark.needs("skopeo")
def test_skopeo_reads_the_store_where_it_lies(home: str, traveller_archive: Path, tmp_path: Path) -> None:
    archive = f"{tmp_path}/from-the-store.tar"
    copy(f"oci:{home}:{TAGGED}", f"oci-archive:{archive}:{TAGGED}", "--dest-oci-accept-uncompressed-layers")
    box("load", "-i", archive)
    assert traveller.digests(os.environ["BOX_ROOT"], traveller.NAME) == traveller.digests(home, traveller.NAME)


@pytest.mark.needs("umoci")
def test_umoci_unpacks_the_store_to_the_tree_that_box_runs(home: str, facts: str, tmp_path: Path) -> None:
    say(["umoci", "unpack", "--image", f"{home}:{TAGGED}", str(tmp_path / "bundle")])
    tree = tmp_path / "bundle" / "rootfs" / "srv" / "tree"
    assert sorted(os.listdir(tree)) == sorted(
        ["data", "empty", "kept", "link", "n" * 120, "read only", "replaced", "shared", "tool", "twin"]
    )
    assert os.listdir(tree / "replaced") == ["new"]
    assert (tree / "data").samefile(tree / "twin")
    locked = (tree / "read only").stat()
    assert (locked.st_mode & 0o7777, locked.st_uid, locked.st_gid) == (0o440, 1234, 4_000_000_000)
    assert os.getxattr(tree / "tool", "security.capability")


@pytest.mark.needs("umoci")
def test_box_runs_what_umoci_repacked(traveller_archive: Path, tmp_path: Path) -> None:
    """A layout of another maker, with layers of its own: one that adds a file and removes one."""
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    layout.mkdir()
    say(["tar", "-xf", str(traveller_archive), "-C", str(layout)])
    image = f"{layout}:{TAGGED}"
    say(["umoci", "unpack", "--image", image, str(bundle)])
    tree = bundle / "rootfs" / "srv" / "tree"
    (tree / "data").unlink()
    (tree / "added").write_text("by umoci\n")
    say(["umoci", "repack", "--image", image, str(bundle)])
    say(["umoci", "config", "--image", image, "--config.cmd", "three"])
    say(["tar", "-cf", f"{tmp_path}/repacked.tar", "-C", str(layout), "."])
    box("load", "-i", tmp_path / "repacked.tar")
    printed = box("run", "--rm", "--entrypoint", "sh", traveller.NAME, "-c", "ls; cat added").stdout
    assert "data\n" not in printed
    assert printed.endswith("by umoci\n")
    assert "argument <three>\n" in box("run", "--rm", traveller.NAME).stdout
