"""What action verify finds by reading archives, beside the stored bytes."""

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from freezer.engine.engine import Engine
from freezer.engine.verify import ChainVerifier
from freezer.exceptions import ConfigError
from freezer.job.job import Job
from freezer.storage import levels
from freezer.storage.backup import StoredLevel
from freezer.storage.verify import Problem, ReadStream
from freezer.utils import human
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)

_Chain = tuple[str, str, str, int]


class Archives:
    """Reads the archives of levels, which come by chain and level. A context manager:
    it has temporary files.

    :param present: all that are verified
    :ivar read: those whose archives were read
    """

    def __init__(self, job: Job, present: Sequence[StoredLevel]) -> None:
        self.read: set[StoredLevel] = set()
        self._job = job
        self._chains: dict[_Chain, list[StoredLevel]] = {}
        for stored in present:
            self._chains.setdefault(_chain_of(stored), []).append(stored)
        self._chain: _Chain | None = None
        self._verifier: ChainVerifier | None = None
        self._stack = contextlib.ExitStack()
        self._unread: dict[str, set[StoredLevel]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def reader(self, stored: StoredLevel) -> ReadStream | None:
        """What reads the streams of a level; None if only its bytes are checked."""
        if not self._job.config.verify_data:
            return None
        verifier = self._verifier_of(stored)
        if verifier is None:
            return None
        return functools.partial(self._read, verifier, stored)

    def seal_problems(self, stored: StoredLevel) -> Iterable[Problem]:
        """What is wrong with the key and the seal of a level in format age; nothing if
        they cannot be opened here, or its archive was read."""
        verifier = self._verifier_of(stored)
        if verifier is None or stored in self.read or verifier.unreadable(stored):
            return ()
        return verifier.check_seal(stored, self._below(stored))

    def key_opens(self, stored: StoredLevel) -> bool:
        """Whether the passphrase opens the file with the key of a level."""
        verifier = self._verifier_of(stored)
        return verifier is not None and verifier.opens_key(stored)

    def _below(self, stored: StoredLevel) -> Sequence[StoredLevel]:
        """The levels that it builds on, from level 0 up."""
        return levels.needed(stored, self._chains[_chain_of(stored)])[::-1]

    def _verifier_of(self, stored: StoredLevel) -> ChainVerifier | None:
        chain = _chain_of(stored)
        if chain != self._chain:
            self._stack.close()
            self._chain = chain
            self._verifier = self._new_verifier(stored.backup.engine)
        return self._verifier

    def notes(self) -> Iterator[str]:
        """A line for each reason for which archives were not read."""
        for reason, unread in self._unread.items():
            yield (
                f'Only the stored bytes of {human.number(len(unread), "backup")} were '
                f'checked, not the archive: {reason}'
            )

    def _new_verifier(self, name: str) -> ChainVerifier | None:
        engine = self._engine(name)
        if engine is None:
            return None
        verifier = ChainVerifier(engine, self._job.settings)
        return self._stack.enter_context(verifier)

    @functools.cache  # noqa: B019 - lives as long as the job
    def _engine(self, name: str) -> Engine | None:
        try:
            return self._job.engine_named(name)
        except ConfigError as error:
            LOG.warning('archives of engine %s are not read: %s', name, error)
            return None

    def _read(
        self,
        verifier: ChainVerifier,
        stored: StoredLevel,
        part: str,
        blocks: Iterator[Block],
    ) -> Iterable[Problem]:
        reason = verifier.unreadable(stored)
        if reason is not None:
            self._unread.setdefault(reason, set()).add(stored)
            return
        yield from verifier.read(stored, self._below(stored), part, blocks)
        if verifier.has_read(stored):
            self.read.add(stored)


def _chain_of(stored: StoredLevel) -> _Chain:
    backup = stored.backup
    name = stored.member, backup.engine, backup.hostname_backup_name
    return *name, stored.level_zero_timestamp
