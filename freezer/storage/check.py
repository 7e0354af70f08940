"""What a check of a storage finds, and the loop that tries things out.

A driver has a list of probes. Each tries one thing and says what it saw; the loop
decides what an error means.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from freezer.storage.exceptions import Archived, StorageException, Unreachable

T = TypeVar('T')
Value = bool | float | str | None


class Result(enum.StrEnum):
    """A note is a limitation that the agent works around, or that one should know of.
    A problem is something that a backup or a restore needs and that does not work."""

    OK = 'ok'
    NOTE = 'note'
    PROBLEM = 'problem'


@dataclass(frozen=True)
class Finding:
    """What came of one probe.

    :param message: for a person, part of a line
    :param hint: which option to set, or what else to do; empty where nothing helps
    :param value: the same for a program: whether the storage can, or a figure in bytes,
        seconds or bytes per second, or a name the storage gave; None if not known
    """

    result: Result
    message: str
    hint: str = ''
    value: bool | float | str | None = None


def ok(message: str, value: bool | float | str | None = True) -> Finding:
    return Finding(Result.OK, message, value=value)


def note(
    message: str, hint: str = '', value: bool | float | str | None = False
) -> Finding:
    return Finding(Result.NOTE, message, hint, value)


def problem(
    message: str, hint: str = '', value: bool | float | str | None = False
) -> Finding:
    return Finding(Result.PROBLEM, message, hint, value)


@dataclass(frozen=True)
class CheckRow:
    """A finding and what was tried.

    :param storage: the member's name in a multiple storage
    """

    name: str
    finding: Finding
    storage: str = ''


@dataclass(frozen=True)
class CheckReport:
    """All that was tried, in order."""

    container: str
    rows: tuple[CheckRow, ...]

    @property
    def problems(self) -> list[CheckRow]:
        """Why backups cannot be made or restored here; empty if they can."""
        return [row for row in self.rows if row.finding.result is Result.PROBLEM]


@dataclass(frozen=True)
class Probe(Generic[T]):
    """One thing to try.

    :param run: tries it in the place it is given; None where it does not apply there;
        may raise StorageException or OSError
    :param needed: whether an error of it is a problem, and not a note
    """

    name: str
    run: Callable[[T], Finding | None]
    needed: bool = True


def try_out(probes: Iterable[Probe[T]], place: T) -> Iterator[CheckRow]:
    """A row for each probe; none after the first that gets no answer."""
    for probe in probes:
        finding: Finding | None
        try:
            finding = probe.run(place)
        except Unreachable as error:
            # What was not answered is not something that the store cannot do. Every
            # further probe would wait as long.
            finding = problem(f'{error.message}; no more was tried', value=None)
            yield CheckRow(probe.name, finding)
            return
        except Archived as error:
            # Written to a storage class that was chosen for not being read.
            finding = note(str(error), value=None)
        except (StorageException, OSError) as error:
            kind = Result.PROBLEM if probe.needed else Result.NOTE
            finding = Finding(kind, str(error))
        if finding is not None:
            yield CheckRow(probe.name, finding)
