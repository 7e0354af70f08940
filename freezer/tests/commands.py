"""Commands that tests run, and what is to be seen of them."""

import subprocess
from typing import Any


def run_command(
    *argv: object, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command; what it writes is kept as text."""
    words = list(map(str, argv))
    return subprocess.run(words, capture_output=True, text=True, check=check, **options)


def seen_on_terminal(written: str) -> list[str]:
    """The lines on a terminal; a carriage return goes back to the begin of the line."""
    lines = []
    for line in written.split('\n'):
        seen = ''
        for text in line.split('\r'):
            seen = text + seen[len(text) :]
        lines.append(seen.rstrip())
    return lines
