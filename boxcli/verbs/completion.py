"""`box completion`: what a shell needs to complete box's commands, options, images and containers."""

from __future__ import annotations

from boxcli.table import Argument, Values, Verb

SHELLS = ("bash", "zsh", "fish")


def _shell(text: str) -> str:
    if text not in SHELLS:
        raise ValueError(f"{text!r} is not one of {', '.join(SHELLS)}")
    return text


VERB = Verb(
    "completion",
    "Print a shell's completion script",
    Argument("SHELL", read=_shell),
    description="bash: source <(box completion bash), in ~/.bashrc. zsh: source <(box completion zsh), after compinit. "
    "fish: box completion fish > ~/.config/fish/completions/box.fish",
)


def main(values: Values) -> int:
    """Print the script."""
    from boxcli.click_face import completion_script

    print(completion_script(values.text("shell")))
    return 0
