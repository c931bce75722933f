"""Which layer wrote what: replayed from tars, and the same as the kernel's own view of the stack."""

import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings

from store.errors import BlobCorrupt, StoreError
from store.layout import Store
from store.lineage import Event, Lineage
from tests.store import strata
from tests.store.strata import Note, put


def life(store: Store, path: str, *layers: Sequence[Note]) -> list[tuple[int, str, tuple[str, ...]]]:
    """The events at `path`, the earliest first."""
    lineage = Lineage(store, put(store, *layers))
    events = lineage.events([path.encode()])[path.encode()]
    return [(event.layer, event.kind, event.what) for event in reversed(events)]


ETC: Note = ("dir", "etc", "")
FILE: Note = ("file", "etc/a", "1")

# Directories of two sizes in an index: one that would reach over a block's end has its place behind it, and its name must know.
MANY_MARKS: list[list[Note]] = [
    [("dir", "a", ""), *(("dir", f"a/{number}", "") for number in range(40))],
    [note for number in range(0, 40, 3) for note in (("opaque", f"a/{number}", ""), ("file", f"a/{number}/b/c", "x"))],
    [note for number in range(0, 40, 5) for note in (("opaque", f"a/{number}", ""), ("file", f"a/{number}/b/c", "y"))],
]


def test_a_file_is_added_changed_and_deleted(store: Store) -> None:
    assert life(store, "etc/a", [ETC, FILE], [("file", "etc/a", "22")], [("gone", "etc/a", "")], [("file", "etc/a", "3")]) == [
        (0, "A", ()),
        (1, "C", ("size", "content")),
        (2, "D", ()),
        (3, "A", ()),
    ]


def test_the_content_is_compared_where_sizes_are_the_same(store: Store) -> None:
    again: Note = ("file", "etc/a", "1 mode 600")
    assert life(store, "etc/a", [ETC, FILE], [("file", "etc/a", "2")], [("file", "etc/a", "2 mode 600")], [again]) == [
        (0, "A", ()),
        (1, "C", ("content",)),
        (2, "C", ("mode",)),
        (3, "C", ("content",)),
    ]
    events = Lineage(store, put(store, [ETC, FILE], [("file", "etc/a", "2")])).events([b"etc/a"])[b"etc/a"]
    assert [event.is_content for event in events] == [True, True]
    assert not Event(1, "C", ("mode", "owner")).is_content


@pytest.mark.parametrize(
    "taking",
    [
        [("gone", "etc", "")],
        [("opaque", "etc", "")],
        [("dir", "etc", ""), ("opaque", "etc", "")],
        [("file", "etc", "a file now")],
        [("gone", "etc", ""), ("dir", "etc", "")],
        [("opaque", "", "")],
    ],
)
def test_whatever_takes_a_directory_away_takes_what_is_in_it(store: Store, taking: list[Note]) -> None:
    assert life(store, "etc/a", [ETC, FILE], taking)[-1] == (1, "D", ())


def test_a_whiteout_hides_what_is_below_it_and_not_its_own_layer_in_any_order(store: Store) -> None:
    for notes in ([("gone", "etc/a", ""), ("file", "etc/a", "2")], [("file", "etc/a", "2"), ("gone", "etc/a", "")]):
        assert life(store, "etc/a", [ETC, FILE], notes) == [(0, "A", ()), (1, "D", ()), (1, "A", ())]


def test_a_directory_that_is_only_named_again_is_not_written(store: Store) -> None:
    assert life(store, "etc", [ETC], [ETC, FILE], [("dir", "etc", "700")]) == [(0, "A", ()), (2, "C", ("mode",))]
    assert life(store, "made", [("file", "made/by/the/way", "")]) == [(0, "A", ())]


def test_names_lead_through_the_symlinks_of_the_layers_below(store: Store) -> None:
    base: list[Note] = [("dir", "usr", ""), ("dir", "usr/lib", ""), ("link", "lib", "usr/lib")]
    lineage = Lineage(store, put(store, base, [("file", "lib/x", "1")], [("gone", "lib/x", "")]))
    assert [(event.layer, event.kind) for event in lineage.events([b"usr/lib/x"])[b"usr/lib/x"]] == [(2, "D"), (1, "A")]
    assert lineage.resolve(b"/lib/../lib/x") == b"usr/lib/x"
    assert lineage.resolve(b"lib") == b"lib"
    assert lineage.resolve(b"lib", last=True) == b"usr/lib"
    assert lineage.link(b"lib") == b"usr/lib"


def test_a_circle_of_links_is_an_error(store: Store) -> None:
    lineage = Lineage(store, put(store, [("link", "a", "b"), ("link", "b", "a")]))
    with pytest.raises(StoreError, match="too many symbolic links"):
        lineage.resolve(b"a/x")


def test_a_hard_link_is_the_other_file_by_another_name(store: Store) -> None:
    lineage = Lineage(store, put(store, [ETC, FILE, ("hard", "etc/b", "etc/a")], [("file", "etc/b", "2")]))
    later, first = lineage.events([b"etc/b"])[b"etc/b"]
    assert (first.kind, first.link) == ("A", b"etc/a")
    assert (later.layer, later.what) == (1, ("content",))
    assert [event.layer for event in lineage.events([b"etc/a"])[b"etc/a"]] == [0]


def test_what_is_below_a_directory_with_and_without_what_is_gone(store: Store) -> None:
    lineage = Lineage(store, put(store, [ETC, FILE, ("file", "etcetera", "")], [("gone", "etc/a", ""), ("file", "etc/b", "")]))
    assert lineage.below(b"etc") == [b"etc", b"etc/b"]
    assert lineage.below(b"etc", gone=True) == [b"etc", b"etc/a", b"etc/b"]
    assert lineage.below(b"none") == []


def test_a_damaged_layer_is_not_believed(store: Store) -> None:
    layers = put(store, [ETC, FILE])
    path = store.blobs.path(layers[0].diff_id)
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    with open(path, "wb") as file:
        file.write(data.replace(b"1\0\0\0\0\0\0\0\0", b"2\0\0\0\0\0\0\0\0"))  # the file's content, not a header
    with pytest.raises(BlobCorrupt):
        Lineage(store, layers)


def check_against_the_kernel(store: Store, layers: Sequence[Sequence[Note]]) -> None:
    stack = put(store, *layers)
    try:
        view = store.snapshots.view(stack)
    except StoreError:  # a layer that cannot be
        assume(False)
    try:
        shown = strata.listed(view)
    finally:
        os.close(view)
    lineage = Lineage(store, stack)
    assert [path for path in lineage.below(b"") if path] == sorted(shown)
    assert {path: lineage.link(path) for path in shown} == {
        path: content if kind == "link" else b"" for path, (kind, _, content) in shown.items()
    }


@pytest.mark.needs("root", "overlay")
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers=strata.STACK)
def test_what_is_there_in_the_end_is_what_the_kernel_shows(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[Note]]
) -> None:
    check_against_the_kernel(Store.open(str(tmp_path_factory.mktemp("store")), "overlay"), layers)


@pytest.mark.needs("root", "overlay")
@pytest.mark.parametrize("driver", ["overlay", pytest.param("erofs", marks=pytest.mark.needs("erofs"))])
def test_directories_with_and_without_marks_are_found_in_every_driver_s_tree(root: str, driver: str) -> None:
    check_against_the_kernel(Store.open(root, driver), MANY_MARKS)
