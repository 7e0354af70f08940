"""Agents that are killed at a chosen step: just before their nth change of anything.

A change is a call that alters a file system, or a request that alters a store. SIGKILL
ends the process there, so nothing is cleaned up.
"""

import functools
import http.client
import itertools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from freezer.tests import warm

_CALLS = ('mkdir', 'rename', 'replace', 'unlink', 'rmdir', 'fsync')
_METHODS = ('PUT', 'POST', 'DELETE', 'COPY')


class Doomed(warm.Fork):
    """An agent that is killed at a step; it ends by itself if it has fewer.

    :param step: from 1
    """

    def __init__(
        self, step: int, argv: Sequence[str], stdout: int, stderr: int
    ) -> None:
        target = functools.partial(_run, step)
        super().__init__(argv, dict(os.environ), stdout, stderr, target)


def _run(step: int, *arguments: Any) -> None:
    """In the fork."""
    kill_before(step)
    warm.run(*arguments)


def kill_before(step: int) -> None:
    """Kill this process just before its nth change of anything from now on."""
    numbers = itertools.count(1)

    def count() -> None:
        # Any number of threads: one of them gets it.
        if next(numbers) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counting(*given: Any, **named: Any) -> Any:
            count()
            return call(*given, **named)

        return counting

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    put = http.client.HTTPConnection.putrequest

    def putrequest(self: Any, method: str, *given: Any, **named: Any) -> None:
        if method in _METHODS:
            count()
        put(self, method, *given, **named)

    http.client.HTTPConnection.putrequest = putrequest  # type: ignore[method-assign]
