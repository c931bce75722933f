"""What the benchmarks' figures mean. No test here, and none anywhere, asserts a time."""

import pytest

from bench import tables
from bench.timing import ENVIRONMENT, Contestant, Failed, Result, Samples, paired, process


def test_the_rounds_are_paired_and_each_is_begun_by_another() -> None:
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda: float(len(order)), lambda: order.append(name))

    results = paired([contestant(name) for name in "abc"], 4, warm_up=1, rest=0)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert results["a"] == Samples((4.0, 9.0, 11.0, 13.0))


def test_the_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # In the slow second round both took ten times as long; the medians alone would say 1/20 or so.
    ours, theirs = Samples((1.0, 10.0, 1.0)), Samples((2.0, 20.0, 20.0))
    assert ours.ratio(theirs) == 0.5


def test_who_fails_is_in_the_table_with_the_reason_and_a_missed_goal_is_said() -> None:
    results: dict[str, Result] = {
        "box": Samples((0.01, 0.02, 0.03)),
        "peer": Samples((0.02, 0.04, 0.06)),
        "swift": Samples((0.005, 0.01, 0.015)),
        "absent": Failed("absent is not installed"),
    }
    text = tables.comparison("title", "box", results, {"peer": 0.5, "swift": 1.0, "absent": 0.5}, ["a note"])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "",
        "title",
        "median ms least ms box / it (3 rounds)",
        "box 20.0 10.0",
        "peer 40.0 20.0 0.500 goal 0.50: met",
        "swift 10.0 5.0 2.000 goal 1.00: missed",
        "absent missing: absent is not installed (goal: 0.50)",
        "a note",
    ]


def test_without_our_own_figures_there_is_no_table() -> None:
    with pytest.raises(Failed, match="box broke"):
        tables.comparison("title", "box", {"box": Failed("box broke")}, {})


def test_a_process_that_fails_is_no_sample() -> None:
    with pytest.raises(Failed, match=r"^sh ended with 3: no such luck$"):
        process(["sh", "-c", "echo first >&2; echo no such luck >&2; exit 3"])()
    assert process(["sh", "-c", "exit 3"], status=3)() > 0


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(Failed, match=r"^no-such-program is not installed$"):
        process(["no-such-program"])


def test_a_timed_process_gets_no_input_no_ignored_signal_and_only_the_environment_it_shall() -> None:
    # Python itself ignores SIGPIPE (bit 12 of the mask).
    script = (
        '[ -z "$(cat)" ] && [ "$(env | cut -d= -f1 | grep -vx -e PWD -e SHLVL -e _ | sort | tr "\\n" " ")" = "HOME LANG PATH " ]'
    )
    assert process(["sh", "-c", script + " && ! grep -q 'SigIgn:.*[13579bdf]...$' /proc/self/status"])() > 0
    assert sorted(ENVIRONMENT) == ["HOME", "LANG", "PATH"]
