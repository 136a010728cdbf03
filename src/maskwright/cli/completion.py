"""`maskwright completion`: what a shell needs to complete commands, options and their values with the Tab key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from tyro.conf import FlagCreatePairsOff, Positional, arg

Shell: TypeAlias = Literal["bash", "zsh", "fish"]


@dataclass
class Completion:
    """Complete commands and options with Tab: print a script for your shell, or put it where the shell looks for it.

    For this shell alone: `eval "$(maskwright completion bash)"`.
    """

    shell: Annotated[Positional[Shell], arg(metavar="{bash,zsh,fish}")]
    """Which shell."""
    install: FlagCreatePairsOff[bool] = False
    """Write the script to your home folder instead of printing it; new shells then find it."""

    def offer(self, script: str) -> None:
        """Print the script, which is made of all commands, or write it where the shell looks."""
        if not self.install:
            print(script, end="")
            return
        path = _place(self.shell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, "utf-8")
        print(f"written: {path}\nOpen a new shell, type maskwright and press Tab twice.")
        if self.shell == "zsh":
            print("zsh looks there only if ~/.zshrc has, before `compinit`:  fpath=(~/.zfunc $fpath)")


def _place(shell: Shell) -> Path:
    """Where a shell looks for the completions of one user."""
    home = Path.home()
    if shell == "zsh":
        return home / ".zfunc" / "_maskwright"
    if shell == "fish":
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return settings / "fish" / "completions" / "maskwright.fish"
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return data / "bash-completion" / "completions" / "maskwright"
