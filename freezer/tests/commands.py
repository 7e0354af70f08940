"""Commands that tests run."""

import subprocess
from typing import Any


def run_command(
    *argv: object, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command; what it writes is kept as text."""
    words = list(map(str, argv))
    return subprocess.run(words, capture_output=True, text=True, check=check, **options)
