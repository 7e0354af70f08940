"""Sources to test engines on, each described in a way that is not the engine's."""

import abc
import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from freezer.engine.engine import Engine
from freezer.engine.settings import EngineSettings
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.tar import TarEngine
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


def children() -> set[int]:
    """The processes that this one has started."""
    lists = Path('/proc/self/task').glob('*/children')
    return {int(child) for each in lists for child in each.read_text().split()}
