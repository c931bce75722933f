"""What reading a Boxfile loads: `box build` pays for it every time."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COSTLY = {"dataclasses", "inspect", "typing", "json", "pathlib", "subprocess", "shutil", "unicodedata", "logging", "asyncio"}


def modules_after(code: str) -> set[str]:
    """The modules that the code loads beyond those that the installation loads by itself."""

    def after(text: str) -> set[str]:
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {text}; print('\\n'.join(sys.modules))"
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    return after(code) - after("pass")


def test_parsing_loads_nothing_costly_but_the_yaml_parser() -> None:
    loaded = modules_after("import boxfile; boxfile.parse('box: 1\\nbase: debian:12\\nsteps: [{run: make}]\\n')")
    assert "boxfile.document" in loaded
    assert not loaded & COSTLY


def test_what_only_errors_schemas_and_printing_need_is_not_loaded_by_a_good_boxfile() -> None:
    loaded = modules_after("import boxfile; boxfile.parse('box: 1\\nbase: scratch\\n')")
    assert not loaded & {"boxfile.syntax", "boxfile.schema", "boxfile.printer"}


def test_the_package_knows_of_the_store_only_errors_records_and_what_a_slip_is() -> None:
    loaded = modules_after("import boxfile, boxfile.syntax, boxfile.printer")
    assert {name for name in loaded if name.split(".")[0] in ("store", "builder", "runtime", "boxcli")} == {
        "store",
        "store.errors",
        "store.likeness",
        "store.record",
    }


def test_parsing_opens_nothing_and_asks_nothing() -> None:
    code = (
        "import boxfile; seen = []; sys.addaudithook(lambda event, _: seen.append(event)); "
        "boxfile.parse('box: 1\\nbase: ./x.tar\\nsteps: [{copy: a -> /b}]\\n'); "
        "bad = {'open', 'os', 'socket', 'subprocess', 'time', 'import'} & {e.split('.')[0] for e in seen}; assert not bad, bad"
    )
    modules_after(code)
