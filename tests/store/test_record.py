"""Records are frozen values."""

import copy
import pickle

import pytest

from boxfile import CopyStep, EnvStep, Place, RunStep, Step
from store.record import Record


class Point(Record):
    x: int
    y: int = 0


class Named(Point):
    name: str = "o"


def test_fields_come_in_order_with_those_of_the_base_first() -> None:
    assert Named(1, 2, "p") == Named(x=1, y=2, name="p")
    assert Named(1) == Named(1, 0, "o")
    assert Named.__match_args__ == ("x", "y", "name")
    match Named(1, 2, "p"):
        case Named(x, y, name):
            assert (x, y, name) == (1, 2, "p")


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})])
def test_wrong_fields_are_refused(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*values, **named)


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point is frozen"):
        point.x = 2  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError, match="Point is frozen"):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 2
    assert point == Point(1)


def test_equality_needs_the_same_type_and_equal_fields_and_agrees_with_hash() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(2, 1)
    assert Named(1, 2) != Point(1, 2)
    assert Point(1) != (1, 0)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert len({Point(1), Point(1, 0), Named(1)}) == 2


def test_a_record_is_shown_as_it_is_made_and_survives_copy_and_pickle() -> None:
    step = CopyStep(Place(1, 2), "copy: a -> /b", ("a",), "/b")
    shown = (
        "CopyStep(at=Place(line=1, column=2), text='copy: a -> /b', sources=('a',), to='/b', owner=None, mode=None, exclude=())"
    )
    assert repr(step) == shown
    assert copy.deepcopy(step) == pickle.loads(pickle.dumps(step)) == step


def test_steps_are_steps() -> None:
    assert isinstance(EnvStep(Place(1, 1), "", ()), Step)
    assert RunStep(Place(1, 1), "", "x").network == "default"
