"""Every error as a person sees it: golden/NAME.boxfile is the mistake, golden/NAME.txt what is said.

`GOLDEN=write pytest tests/boxfile/test_golden.py` writes the texts anew; read the difference before you commit it.
"""

import os
from pathlib import Path

import pytest

from boxfile import parse, render
from store.errors import BoxfileError

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.boxfile"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_mistake_is_answered_as_the_golden_file_says(case: Path) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(case.read_bytes().decode(), path="Boxfile")
    said = render(caught.value) + "\n"
    golden = case.with_suffix(".txt")
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(said)
    assert said == golden.read_text()


def test_there_is_a_golden_text_for_every_mistake_and_no_other() -> None:
    assert len(CASES) > 60
    assert {case.stem for case in CASES} == {text.stem for text in GOLDEN.glob("*.txt")}
