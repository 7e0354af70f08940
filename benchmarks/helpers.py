"""Background processes of a measurement."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.peers import HERE


@contextlib.contextmanager
def helper(module: str, *arguments: str) -> Iterator[str]:
    """Run a module in the background; yields its first line of output."""
    process = subprocess.Popen(
        [sys.executable, '-m', module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
