"""Sessions of freezer-api: jobs that run together, often on several machines.

The tag of a session counts its runs. The job that starts a run first increments the
tag; the other jobs of that run are given the new one.
"""

import logging
from collections.abc import Mapping
from typing import Any

from freezer.scheduler.api.wire import Api, ApiRejected

LOG = logging.getLogger(__name__)

# Attempts to start a session whose tag other jobs have incremented.
_TRIES = 3


class SessionTags:
    """The tags of the sessions that jobs of this scheduler have started."""

    def __init__(self) -> None:
        # Job id -> (session id, tag).
        self._tags: dict[str, tuple[str, int]] = {}

    def __getitem__(self, job_id: str) -> tuple[str, int]:
        return self._tags.get(job_id, ('', 0))

    def drop(self, job_id: str) -> None:
        self._tags.pop(job_id, None)

    def start(self, api: Api, job_id: str, session_id: str, tag: int) -> None:
        """Report that a job of the session has started.

        :param tag: in the job's document
        """
        known_session, known_tag = self[job_id]
        if known_session == session_id:
            tag = max(tag, known_tag)
        answer: dict[str, Any] = {}
        for _try in range(_TRIES):
            start = {'job_id': job_id, 'current_tag': tag}
            try:
                answer = api.session_action(session_id, {'start': start})
            except ApiRejected as error:
                if error.status != 400:
                    raise
                # The tag is too high: the session was deleted and created anew.
                before, tag = tag, _tag(api.session(session_id), tag)
                if before == tag:
                    raise
                continue
            before, tag = tag, _tag(answer, tag)
            if answer.get('result') != 'out-of-sync' or before == tag:
                break
        self._tags[job_id] = (session_id, tag)
        LOG.info(
            'job %s: session %s, run %d: %s',
            *(job_id, session_id, tag, answer.get('result')),
        )


def _tag(answer: Mapping[str, Any], default: int) -> int:
    found = answer.get('session_tag')
    return found if isinstance(found, int) else default
