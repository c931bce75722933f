"""Completion, in the shells themselves."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box

ENVIRONMENT = {"PATH": f"{os.path.dirname(BOX)}:/usr/bin:/bin"}


def answers(box: Box, shell: str, *words: str) -> list[str]:
    """What a shell is answered to `box WORDS` with the cursor in the last word."""
    if shell == "fish":
        environment = {"COMP_WORDS": " ".join(["box", *words]), "COMP_CWORD": words[-1]}
    else:
        environment = {"COMP_WORDS": " ".join(["box", *words]), "COMP_CWORD": str(len(words))}
    lines = box(**environment, _BOX_COMPLETE=f"{shell}_complete").stdout.rstrip("\n").splitlines()
    if shell == "zsh":
        return lines[1::3]
    return [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_options_and_their_prefixes_are_completed(box: Box, shell: str) -> None:
    assert answers(box, shell, "im") == ["images", "import"]
    assert answers(box, shell, "run", "--read") == ["--read-only"]
    assert "--root" in answers(box, shell, "--r")


@pytest.mark.needs("root", "overlay", "cgroup")
def test_names_of_images_and_containers_are_completed(box: Box, tiny: str) -> None:
    box("run", "--name", "carrier", tiny)
    assert answers(box, "bash", "run", "ti") == ["tiny:latest"]
    assert answers(box, "bash", "rm", "car") == ["carrier"]
    assert answers(box, "bash", "rmi", "x") == []


def test_completion_makes_no_store(box: Box, tmp_path: Path) -> None:
    assert answers(box, "bash", "rmi", "x") == []
    assert not os.path.exists(os.environ["BOX_ROOT"])


@pytest.mark.needs("bash")
def test_bash_completes_with_the_script(box: Box) -> None:
    script = (
        f"{box('completion', 'bash').stdout}\nCOMP_WORDS=(box ima); COMP_CWORD=1; _box_completion box; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert (done.stdout, done.stderr) == ("images\n", "")


@pytest.mark.needs("fish")
def test_fish_completes_with_the_script(box: Box) -> None:
    script = f"{box('completion', 'fish').stdout}\ncomplete -C 'box ima'"
    environment = {**ENVIRONMENT, "HOME": os.environ["HOME"]}
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["images", "List", "images"]


@pytest.mark.needs("zsh")
def test_zsh_accepts_the_script(box: Box) -> None:
    script = f"autoload -U compinit; compinit -u -D\n{box('completion', 'zsh').stdout}\nprint $_comps[box]"
    environment = {**ENVIRONMENT, "HOME": os.environ["HOME"]}
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("_box_completion\n", "")
