"""The last run of each job, as schedulers that share jobs tell each other. Pure.

A lock says that a job runs now. It does not say that a due time has been handled: a
scheduler whose clock is behind would run it again once the lock is free.
"""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

#: states of a run: it has not ended; it has; it was given up, and another scheduler may
#: repeat it
RUNNING, DONE, OPEN = 'running', 'done', 'open'

_Moment = datetime.datetime


@dataclasses.dataclass(frozen=True)
class SharedRun:
    """The last run of a job, as far as a member knows.

    :param member: the one that ran it
    :param timing: :attr:`Document.timing` of its schedule
    :param anchor: the time from which that member counts intervals
    :param at: all times up to this one are handled, if the state is DONE
    :param ended: when it ended; ``at`` if it has not
    """

    member: str
    timing: str
    anchor: _Moment
    at: _Moment
    ended: _Moment
    state: str

    def packed(self) -> list[Any]:
        """As published."""
        moments = (self.anchor, self.at, self.ended)
        seconds = (each.timestamp() for each in moments)
        return [self.member, self.timing, *seconds, self.state]


def unpack(document: Mapping[str, Any]) -> dict[str, SharedRun]:
    """Job id -> run, for what a member published; malformed ones are left out."""
    found = {}
    for job_id, packed in document.items():
        try:
            member, timing, anchor, at, ended, state = packed
            found[str(job_id)] = SharedRun(
                *(
                    str(member),
                    str(timing),
                    _moment(anchor),
                    _moment(at),
                    _moment(ended),
                ),
                str(state),
            )
        except (ValueError, TypeError, OverflowError, OSError):
            continue
    return found


def _moment(seconds: Any) -> _Moment:
    return _Moment.fromtimestamp(float(seconds), datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A due run.

    :param once: the schedule has neither date, interval nor cron fields
    :param every: the schedule is an interval
    :param tolerance: how much later than another scheduler this one may have found
        the job
    """

    job_id: str
    timing: str
    anchor: _Moment
    due: _Moment
    once: bool
    every: bool
    tolerance: datetime.timedelta

    def is_handled_by(self, run: SharedRun) -> bool:
        """Whether to take over the times of that run, instead of running the job."""
        if run.timing != self.timing or run.state != DONE:
            return False
        if self.once:
            return run.ended >= self.anchor - self.tolerance
        # Members count an interval from when they found the job: take the other's
        # count over, and look again.
        return run.at >= self.due or (self.every and run.anchor != self.anchor)
