"""Metrics of a run in a file, and the example of alert rules."""

import fcntl
import multiprocessing
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from freezer import metrics
from freezer.common import config
from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.metrics import MetricsFile
from freezer.tests.agent import ROOT
from freezer.utils.progress import Progress

LAST = 'freezer_last_success_timestamp_seconds'


def settings(*arguments: str) -> AgentConfig:
    return config.load(
        ['--storage', 'local', '--container', '/c', '--hostname', 'web1', *arguments],
        {},
    )


@pytest.fixture(autouse=True)
def _logging(kept_logging: None) -> None:
    """Each configuration sets it up."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'freezer.prom'


def named(name: str) -> AgentConfig:
    return settings('--backup-name', name)


def done(level: int = 0, archive: int = 300, stored: int = 100) -> Progress:
    progress = Progress()
    progress.level, progress.files = level, 7
    progress.archive_bytes, progress.stored_bytes = archive, stored
    return progress


def samples(path: Path) -> dict[tuple[str, str, str], float]:
    """(metric, action, backup name) -> value."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type == 'gauge'
        for sample in family.samples:
            labels = sample.labels
            assert set(labels) == {'action', 'backup_name', 'hostname'}
            assert labels['hostname'] == 'web1'
            found[sample.name, labels['action'], labels['backup_name']] = sample.value
    return found


def test_a_run_that_succeeded(path: Path) -> None:
    MetricsFile(str(path), named('etc')).write(done(level=2), success=True)
    found = {name: value for (name, *_), value in samples(path).items()}
    assert set(found) == set(metrics.HELP)
    assert found[LAST] == found['freezer_last_run_timestamp_seconds'] > 1e9
    assert found['freezer_last_run_success'] == 1
    assert found['freezer_last_success_level'] == 2
    assert found['freezer_last_success_files'] == 7
    assert found['freezer_last_success_read_bytes'] == 300
    assert found['freezer_last_success_stored_bytes'] == 100


def test_one_that_fails_keeps_what_the_last_good_one_said(path: Path) -> None:
    file = MetricsFile(str(path), named('etc'))
    file.write(done(), success=True)
    before = samples(path)
    failed = Progress()
    failed.archive_bytes, failed.retries, failed.warnings = 5, 3, 2
    file.write(failed, success=False)
    after = samples(path)
    kept = {key for key in before if 'last_success' in key[0]}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    run = {name: value for (name, *_), value in after.items()}
    assert run['freezer_last_run_success'] == 0
    assert run['freezer_last_run_retries'] == 3
    assert run['freezer_last_run_warnings'] == 2
    assert run['freezer_last_run_timestamp_seconds'] >= run[LAST]


def test_several_in_one_file(path: Path) -> None:
    for name in ('etc', 'home "of" all\\', 'naïve \udcff'):
        MetricsFile(str(path), named(name)).write(done(), success=True)
    verify = settings('--action', 'verify')
    MetricsFile(str(path), verify).write(Progress(), success=True)
    MetricsFile(str(path), named('etc')).write(Progress(), success=False)
    results = {
        key[1:]: value
        for key, value in samples(path).items()
        if key[0] == 'freezer_last_run_success'
    }
    assert results == {
        ('backup', 'etc'): 0,
        ('backup', 'home "of" all\\'): 1,
        ('backup', 'naïve \\udcff'): 1,
        # It is about all that is there.
        ('verify', ''): 1,
    }


def _write(path: str, number: int) -> None:
    MetricsFile(path, named(f'name{number}')).write(done(), success=True)


def test_agents_at_once_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context('fork')
    processes = [
        context.Process(target=_write, args=(str(path), number)) for number in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len({name for _, _, name in samples(path)}) == 8
    assert os.listdir(path.parent) == [path.name]


@pytest.fixture
def _narrow() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures('_narrow')
def test_others_can_read_it(path: Path) -> None:
    """As the scheduler runs agents, and as node_exporter is another user."""
    file = MetricsFile(str(path), named('etc'))
    for _ in range(2):
        file.write(done(), success=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_it_is_replaced_in_one_step(path: Path) -> None:
    file = MetricsFile(str(path), named('etc'))
    file.write(done(), success=True)
    ended = threading.Event()
    broken = []

    def read() -> None:
        while not ended.is_set():
            if len(samples(path)) != len(metrics.HELP):
                broken.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        file.write(done(), success=True)
    ended.set()
    reader.join()
    assert broken == []


@pytest.mark.parametrize(
    'content',
    [
        b'root:x:0:0:root:/root:/bin/sh\n',
        b'node_load1 0.5\n',
        b'freezer_last_run_success 1\n',
        b'\xff\xfe',
        b'# TYPE x\nfreezer_last_run_success{action="a"',
    ],
)
def test_a_file_of_somebody_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match='not a metrics file of this agent: use another name'
    ):
        MetricsFile(str(path), named('etc'))
    assert path.read_bytes() == content


def test_one_that_comes_meanwhile_stays(path: Path) -> None:
    file = MetricsFile(str(path), named('etc'))
    path.write_text('node_load1 0.5\n')
    with pytest.raises(FreezerError, match='not a metrics file'):
        file.write(done(), success=True)
    assert path.read_text() == 'node_load1 0.5\n'
    assert os.listdir(path.parent) == [path.name]


def test_an_empty_one_is_nobodys(path: Path) -> None:
    path.touch()
    MetricsFile(str(path), named('etc')).write(done(), success=True)
    assert samples(path)


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='directory'):
        MetricsFile(str(tmp_path), named('etc'))


def test_a_lock_that_is_held_for_too_long(path: Path) -> None:
    file = MetricsFile(str(path), named('etc'))
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(FreezerError, match='another process has locked'):
            file.write(done(), success=True, patience=0)
    finally:
        os.close(folder)
    file.write(done(), success=True)


# The alert rules

RULES = ROOT / 'etc' / 'prometheus' / 'freezer-alerts.yml'


def test_the_alert_rules() -> None:
    """They are rules, about metrics and labels there are."""
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())
    (group,) = document['groups']
    assert set(document) == {'groups'}
    names = [rule['alert'] for rule in group['rules']]
    assert len(names) == len(set(names)) > 3
    assert set(names) >= {
        *('FreezerBackupIncomplete', 'FreezerRunWarnings', 'FreezerVerifyNever'),
        'FreezerMetricsLost',
    }
    for rule in group['rules']:
        assert set(rule) <= {'alert', 'expr', 'for', 'labels', 'annotations'}
        used = re.findall(r'\bfreezer_\w+', rule['expr'])
        assert used
        assert set(used) <= set(metrics.HELP)
        labels = re.findall(r'\{(\w+)=|\$labels\.(\w+)', str(rule))
        assert {a or b for a, b in labels} <= set(metrics._LABELS)
        assert rule['annotations']['summary']
