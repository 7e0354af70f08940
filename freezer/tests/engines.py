"""An engine on a storage, without the command line."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freezer.engine.backup import BackupPlan, BackupWriter
from freezer.engine.engine import Engine, Warnings
from freezer.engine.restore import RestoreChain
from freezer.engine.settings import EngineSettings
from freezer.engine.tar.tar import TarEngine
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.base import Storage
from freezer.storage.levels import LevelPolicy
from freezer.storage.repository import Repository


@dataclasses.dataclass
class EngineAgent:
    storage: Storage
    settings: EngineSettings
    engine_class: type[Engine] = TarEngine

    def __post_init__(self) -> None:
        self.repository = Repository({'': self.storage})
        self.engine = self.engine_class.from_settings(self.settings)

    def plan(self, name: str, policy: LevelPolicy, now: int) -> BackupPlan:
        return self._writer().plan(name, policy, now)

    def backup(self, source: Path, plan: BackupPlan, now: int) -> Backup:
        found = self.engine.source([str(source)])
        made = self._writer().write(found, plan, now * 10**9)
        return made.backup

    def _writer(self) -> BackupWriter:
        return BackupWriter(self.repository, self.engine, self.settings)

    def state(self, name: str, date: int | None = None) -> dict[int, StoredLevel]:
        return self.repository.find_state(self.engine.name, name, date)

    def open(self, chain: Mapping[int, StoredLevel]) -> RestoreChain:
        return RestoreChain(chain, self.engine, self.settings)

    def restore(self, target: Path, chain: Mapping[int, StoredLevel]) -> Warnings:
        return self.open(chain).restore(str(target))


def tar_engine(**settings: Any) -> TarEngine:
    return TarEngine(EngineSettings(**settings))
