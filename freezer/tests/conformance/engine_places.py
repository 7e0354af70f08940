"""Sources to test engines on, each described in a way that is not the engine's."""

import abc
import dataclasses
import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from freezer.engine.blocks.engine import BlocksEngine
from freezer.engine.blocks.options import OPTIONS as BLOCKS
from freezer.engine.engine import Engine
from freezer.engine.settings import EngineSettings
from freezer.engine.stream.engine import StreamEngine
from freezer.engine.stream.options import OPTIONS as STREAM
from freezer.engine.stream.processes import Command
from freezer.engine.stream.sources import CommandSource, StreamSource
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.tar import TarEngine
from freezer.exceptions import ConfigError, EngineError
from freezer.storage.backup import Backup
from freezer.storage.levels import LevelPolicy
from freezer.tests import trees
from freezer.tests.conformance.backups import HOST, RANDOM
from freezer.tests.conformance.places import LocalPlace
from freezer.tests.engines import EngineAgent

# More than tar and the agent have in memory at any time.
LARGE = 6 * 1024 * 1024


class EnginePlace(abc.ABC):
    """A source, and a storage for its backups."""

    engine_class: ClassVar[type[Engine]]
    options: ClassVar[Mapping[str, Any]] = {}
    # Whether an archive shows any damage, also where it is not compressed.
    has_checksum: ClassVar[bool] = True
    # Whether it is restored into a directory, not to a file.
    target_is_directory: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.source = folder / 'source ü'
        self.storage = LocalPlace(folder / 'storage')
        self.repository = self.storage.repository()
        self.repository.prepare()
        self.make_source()

    def agent(self, **settings: Any) -> EngineAgent:
        """Another one, as another run would have it."""
        settings = {'options': self.options, 'compression': 'none'} | settings
        return EngineAgent(
            self.storage.storage(), EngineSettings(**settings), self.engine_class
        )

    def engine(self) -> Engine:
        return self.agent().engine

    def backup(self, now: float | None = None, **settings: Any) -> Backup:
        """An increment, if there is something to build on.

        :param now: when the source was as it is
        """
        agent = self.agent(**settings)
        taken = int(now or time.time())
        plan = agent.plan(HOST, LevelPolicy(incremental=True), taken)
        return agent.backup(self.source, plan, taken)

    def restore(self, target: Path, **settings: Any) -> None:
        """The newest state."""
        agent = self.agent(**settings)
        agent.restore(target, agent.state(HOST))

    @abc.abstractmethod
    def make_source(self) -> None:
        """Of at least ``LARGE`` bytes."""

    @abc.abstractmethod
    def change(self) -> None:
        """Change the source as a day of use would."""

    @abc.abstractmethod
    def break_source(self) -> None:
        """Make its archive fail that has begun and yielded one block."""

    @abc.abstractmethod
    def describe(self, where: Path) -> Any:
        """What a restore must bring back of a source."""

    def restored(self, target: Path) -> Path:
        """Where a restore brings the source."""
        return target


class TarPlace(EnginePlace):
    """A tree with a bit of everything."""

    engine_class = TarEngine
    options = OPTIONS.defaults()
    # Of contents.
    has_checksum = False

    def make_source(self) -> None:
        trees.make_tree(self.source, 1)
        (self.source / 'large').write_bytes(RANDOM.randbytes(LARGE))

    def change(self) -> None:
        trees.mutate_tree(self.source, 2)
        (self.source / 'new').write_bytes(b'content')

    def break_source(self) -> None:
        # A file that cannot be read is a warning.
        for child in children():
            if Path(f'/proc/{child}/comm').read_text() == 'tar\n':
                os.kill(child, signal.SIGKILL)

    def describe(self, where: Path) -> Any:
        entries = trees.describe(where).items()
        return {p: dataclasses.replace(entry, allocated=0) for p, entry in entries}


class BlocksPlace(EnginePlace):
    """An image with a hole, and zeros that are stored, and an end that is no whole
    block."""

    engine_class = BlocksEngine
    options = BLOCKS.defaults()
    target_is_directory = False

    def make_source(self) -> None:
        self.source.write_bytes(
            RANDOM.randbytes(LARGE) + bytes(LARGE // 2) + b'x' * 777
        )
        os.truncate(self.source, 3 * LARGE)

    def change(self) -> None:
        with self.source.open('r+b') as file:
            for _ in range(9):
                file.seek(RANDOM.randrange(LARGE))
                file.write(RANDOM.randbytes(5000))
            file.write(bytes(90_000))
            file.truncate(3 * LARGE - RANDOM.randrange(3 * LARGE // 2))

    def break_source(self) -> None:
        os.truncate(self.source, LARGE // 2)

    def describe(self, where: Path) -> Any:
        return hashlib.sha256(where.read_bytes()).hexdigest()


class CatEngine(StreamEngine):
    """The output of ``cat``, which a test can have of any file."""

    def source(self, paths: Sequence[str]) -> StreamSource:
        if len(paths) != 1:
            raise ConfigError('one path')
        if not os.path.exists(paths[0]):
            raise EngineError(f'{paths[0]} is missing')
        command = Command('stream-command', [['cat', paths[0]], ['cat']])
        return CommandSource(paths[0], 'content', command)


class StreamPlace(EnginePlace):
    """A large stream."""

    engine_class = CatEngine
    options = STREAM.defaults()
    target_is_directory = False

    def make_source(self) -> None:
        self.source.write_bytes(RANDOM.randbytes(LARGE) + b'the end')

    def change(self) -> None:
        self.source.write_bytes(RANDOM.randbytes(LARGE) + b'another end')

    def break_source(self) -> None:
        # Only the first process fails: the second one sees an ordinary end.
        self.source.unlink()

    def describe(self, where: Path) -> Any:
        return hashlib.sha256(where.read_bytes()).hexdigest()

    def restored(self, target: Path) -> Path:
        return target / 'content'


def children() -> set[int]:
    """The processes that this one has started."""
    lists = Path('/proc/self/task').glob('*/children')
    return {int(child) for each in lists for child in each.read_text().split()}
