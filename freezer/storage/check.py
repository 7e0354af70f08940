"""Findings of a check of a storage, and the loop that runs its probes.

A driver has a list of probes. Each tries one thing and returns a finding; the loop
turns an error into one, and :func:`run_check` cleans up after all of them.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from freezer.storage.exceptions import Archived, StorageException, Unreachable
from freezer.utils.text import NOTICES

T = TypeVar('T')
# A probe for any place is one for a particular kind as well.
Place = TypeVar('Place', contravariant=True)
Value = bool | float | str | None


class Result(enum.StrEnum):
    """A note is a limitation that the agent works around, or that the user should know.
    A problem is something that a backup or a restore needs and that does not work."""

    OK = 'ok'
    NOTE = 'note'
    PROBLEM = 'problem'


@dataclass(frozen=True)
class Finding:
    """The result of one probe.

    :param message: for people, part of a line
    :param hint: the option to set, or what else to do; empty if nothing helps
    :param value: for programs: whether the storage can do it, or a number of bytes,
        seconds or bytes per second, or a name from the storage; None if unknown
    """

    result: Result
    message: str
    hint: str = ''
    value: Value = None


def ok(message: str, value: Value = True) -> Finding:
    return Finding(Result.OK, message, value=value)


def note(message: str, hint: str = '', value: Value = False) -> Finding:
    return Finding(Result.NOTE, message, hint, value)


def problem(message: str, hint: str = '', value: Value = False) -> Finding:
    return Finding(Result.PROBLEM, message, hint, value)


@dataclass(frozen=True)
class CheckRow:
    """A finding, with the name of its probe.

    :param storage: the member's name in a multiple storage
    """

    name: str
    finding: Finding
    storage: str = ''


@dataclass(frozen=True)
class CheckReport:
    """All findings, in order."""

    container: str
    rows: tuple[CheckRow, ...]

    @property
    def problems(self) -> list[CheckRow]:
        """Why backups cannot be made or restored here; empty if they can."""
        return [row for row in self.rows if row.finding.result is Result.PROBLEM]


@dataclass(frozen=True)
class Probe(Generic[Place]):
    """One thing to try.

    :param run: tries it in the given place; None if it does not apply there; may raise
        StorageException or OSError
    :param needed: whether an error is a problem, and not a note
    """

    name: str
    run: Callable[[Place], Finding | None]
    needed: bool = True


def try_out(probes: Iterable[Probe[T]], place: T) -> Iterator[CheckRow]:
    """A row for each probe; stops after the first that gets no answer."""
    for probe in probes:
        finding: Finding | None
        try:
            finding = probe.run(place)
        except Unreachable as error:
            # No answer does not mean that the store cannot do it. Every further probe
            # would wait as long.
            finding = problem(f'{error.message}; the check stopped here', value=None)
            yield CheckRow(probe.name, finding)
            return
        except Archived as error:
            # The chosen storage class cannot be read at once.
            finding = note(str(error), value=None)
        except (StorageException, OSError) as error:
            kind = Result.PROBLEM if probe.needed else Result.NOTE
            finding = Finding(kind, str(error))
        if finding is not None:
            yield CheckRow(probe.name, finding)


def run_check(
    container: str, rows: Iterable[CheckRow], clean_up: Callable[[], Finding]
) -> CheckReport:
    """All rows, and one for the clean-up.

    :param rows: run the check as they are read
    :param clean_up: removes everything, however the check ends; may be called twice
    """
    try:
        found = tuple(rows)
        return CheckReport(container, (*found, CheckRow('clean-up', clean_up())))
    except BaseException:
        # Also after a signal, even one that came during the clean-up.
        left = clean_up()
        if left.result is not Result.OK:
            NOTICES.warning('%s', left.message)
        raise
