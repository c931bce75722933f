"""The short way to an image, and when it is closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store import prepare as slow
from store import prepared
from store.collect import delete_image
from store.errors import ReferenceMissing, StoreError
from store.layout import Store
from store.prepare import prepare
from store.prepared import Prepared, lookup
from tests.store.samples import put_image

CONFIG: dict[str, object] = {
    "Env": ["PATH=/bin", "EMPTY=", "TEXT=line\nline\tü"],
    "Entrypoint": ["/bin/app", ""],
    "Cmd": ["serve", "--all"],
    "WorkingDir": "/srv/some where",
    "User": "app:users",
    "StopSignal": "SIGINT",
    "Volumes": {"/b": {}, "/a": {}},
    "Labels": {"k": "v", "empty": ""},
}


def _facts(found: Prepared | None) -> dict[str, object]:
    assert found is not None
    return {name: getattr(found, name) for name in Prepared.__slots__}


def test_what_was_prepared_is_found_the_short_way(store: Store) -> None:
    descriptor = put_image(store, "app:1", {"a": b"1"}, {"b": b"2"}, config=CONFIG)
    assert lookup(store.root, "app:1") is None
    made = prepare(store, "app:1")
    assert _facts(lookup(store.root, "app:1")) == _facts(made)
    assert made.env == CONFIG["Env"]
    assert (made.entrypoint, made.cmd) == (["/bin/app", ""], ["serve", "--all"])
    assert (made.workdir, made.user, made.stop_signal) == ("/srv/some where", "app:users", "SIGINT")
    assert (made.volumes, made.labels) == (["/a", "/b"], {"k": "v", "empty": ""})
    assert (made.architecture, made.os, made.reference) == ("amd64", "linux", "app:1")
    assert made.manifest_digest == descriptor.digest
    assert made.config_digest == store.images.load(descriptor).id
    assert made.trees == store.snapshots.trees(store.images.load(descriptor).layers)


def test_an_image_without_a_config_is_prepared_too(store: Store) -> None:
    put_image(store, "app")
    made = prepare(store, "app")
    assert _facts(lookup(store.root, "app")) == _facts(made)
    assert (made.env, made.cmd, made.entrypoint, made.volumes, made.labels, made.user) == ([], [], [], [], {}, "")


def test_a_name_without_a_tag_means_latest_also_after_a_registrys_port(store: Store) -> None:
    put_image(store, "localhost:5000/app", {"a": b"1"})
    prepare(store, "localhost:5000/app")
    for name in ("localhost:5000/app", "localhost:5000/app:latest"):
        assert lookup(store.root, name) is not None


@pytest.mark.parametrize(
    "name", ["", "other", "ap", "app:1.2.3", "app:1\napp:1", "app:1 ", "\n", "app:1\0", "../app:1", "sha256:" + "0" * 64]
)
def test_only_the_very_name_is_found(store: Store, name: str) -> None:
    put_image(store, "app:1", {"a": b"1"})
    prepare(store, "app:1")
    assert lookup(store.root, name) is None
    assert lookup(store.root, "app:1") is not None


def test_an_id_takes_the_long_way_and_prepares_for_the_name(store: Store) -> None:
    descriptor = put_image(store, "app", {"a": b"1"})
    assert prepare(store, descriptor.digest.hex[:12]).manifest_digest == descriptor.digest
    assert lookup(store.root, descriptor.digest.hex[:12]) is None
    assert lookup(store.root, "app") is not None


def test_a_name_that_moved_is_never_answered_with_the_old_image(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    second = put_image(store, "app", {"a": b"2"})
    assert lookup(store.root, "app") is None
    prepare(store, "app")
    assert _facts(lookup(store.root, "app"))["manifest_digest"] == second.digest


def test_an_index_that_another_tool_replaced_closes_the_short_way(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    index = Path(store.root, "index.json")
    other = Path(store.root, "other.json")
    other.write_bytes(index.read_bytes())
    other.rename(index)
    assert lookup(store.root, "app") is None
    prepare(store, "app")
    assert lookup(store.root, "app") is not None


def test_an_image_prepared_in_another_boot_is_prepared_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    monkeypatch.setattr(prepared, "boot_id", lambda: "another boot")
    assert lookup(store.root, "app") is None
    monkeypatch.setattr(slow, "boot_id", lambda: "another boot")
    prepare(store, "app")
    assert lookup(store.root, "app") is not None


def test_a_missing_tree_closes_the_short_way(store: Store) -> None:
    descriptor = put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    store.snapshots.delete(store.images.load(descriptor).layers[0].chain_id)
    assert lookup(store.root, "app") is None
    prepare(store, "app")
    assert lookup(store.root, "app") is not None


def test_a_deleted_image_is_not_found(store: Store) -> None:
    put_image(store, "app", {"a": b"1"})
    prepare(store, "app")
    delete_image(store, "app")
    assert lookup(store.root, "app") is None
    with pytest.raises(ReferenceMissing):
        prepare(store, "app")


def test_damaged_files_close_the_short_way_at_every_length(store: Store) -> None:
    descriptor = put_image(store, "app", {"a": b"1"}, config=CONFIG)
    prepare(store, "app")
    for path in (Path(store.root, "prepared", descriptor.digest.hex), Path(store.root, "references")):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert lookup(store.root, "app") is None, f"{path.name} cut to {length} bytes"
        for junk in (b"\xff" * 50, b"\0" * 500, b"\n" * 500):
            path.write_bytes(junk)
            assert lookup(store.root, "app") is None
        path.write_bytes(whole)
        assert lookup(store.root, "app") is not None


def test_a_store_that_is_not_there_is_no_error(root: str) -> None:
    assert lookup(root, "app") is None


@pytest.mark.parametrize(
    "config", [{"Env": ["A=\0"]}, {"Cmd": ["a\0b"]}, {"Labels": {"a\0": "b"}}, {"WorkingDir": "/\0"}, {"Volumes": {"\0": {}}}]
)
def test_a_config_with_a_nul_is_refused(store: Store, config: dict[str, object]) -> None:
    put_image(store, "app", {"a": b"1"}, config=config)
    with pytest.raises(StoreError, match="NUL"):
        prepare(store, "app")


@pytest.mark.parametrize("config", [{"Env": "A=b"}, {"Cmd": [1]}, {"Labels": {"a": 1}}, {"User": 0}, {"Volumes": ["/a"]}])
def test_a_config_of_wrong_types_is_refused(store: Store, config: dict[str, object]) -> None:
    put_image(store, "app", {"a": b"1"}, config=config)
    with pytest.raises(StoreError):
        prepare(store, "app")


def test_a_text_that_looks_like_an_escaped_nul_is_not_one(store: Store) -> None:
    put_image(store, "app", {"a": b"1"}, config={"Env": ["A=\\u0000"]})
    assert prepare(store, "app").env == ["A=\\u0000"]


def test_the_short_way_imports_next_to_nothing() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules);"
        "import store.prepared, store.locks; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, os.getcwd()], capture_output=True, text=True, check=True)
    allowed = {"store", "store.prepared", "store.locks", "fcntl", "_collections_abc", "stat", "_stat"}
    assert set(done.stdout.split()) <= allowed | {"os", "os.path", "posixpath", "genericpath"}
