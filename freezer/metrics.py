"""Writes the result of a run as metrics to a file for Prometheus' node_exporter.

Several jobs may share a file: each run replaces its own metrics and keeps the others. A
failed run keeps the metrics of the last successful one.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.utils import surroundings, trusted
from freezer.utils.paths import absolute
from freezer.utils.progress import Progress
from freezer.utils.text import printable

_LABELS = ('action', 'backup_name', 'hostname')
_MOVES_DATA = ('backup', 'restore')
# node_exporter runs as another user, and the scheduler's agents have a umask of 077.
# The file has no secrets.
_MODE = 0o644
_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.05

_RUN = {
    'freezer_last_run_timestamp_seconds': 'Time of the end of the last run.',
    'freezer_last_run_success': 'Whether the last run succeeded: 1 or 0.',
    'freezer_last_run_duration_seconds': 'Duration of the last run.',
    'freezer_last_run_retries': 'Requests that the last run repeated.',
    'freezer_last_run_warnings': 'Warnings of the last run.',
    'freezer_last_run_incomplete': 'Files, or attributes of files, that the last run '
    'could not read, or in a restore not create or set.',
}
_SUCCESS = {
    'freezer_last_success_timestamp_seconds': 'Time of the end of the '
    'last successful run; 0 if there was none yet.',
    'freezer_last_success_duration_seconds': 'Duration of the last successful run.',
    'freezer_last_success_level': 'Level of the last backup or restore.',
    'freezer_last_success_files': 'Files in the archives of the last '
    'successful run, without directories.',
    'freezer_last_success_read_bytes': 'Uncompressed bytes of the archives of '
    'the last successful run.',
    'freezer_last_success_stored_bytes': 'Bytes of the same archives on the storage.',
}
HELP = _RUN | _SUCCESS


class _Sample(NamedTuple):
    name: str
    labels: tuple[str, ...]


class MetricsFile:
    """The file of ``--metrics-file``.

    :raises ConfigError: it cannot be written
    """

    def __init__(self, path: str, config: AgentConfig) -> None:
        try:
            # Optional: the extra freezer[metrics].
            import prometheus_client.parser  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                'metrics-file needs the package prometheus-client: pip install '
                'freezer[metrics]'
            ) from error
        self._path = absolute(path)
        self._folder = os.path.dirname(self._path)
        self._config = config
        values = (config.action, config.reported_name, config.hostname)
        self._labels = tuple(printable(value) for value in values)
        if surroundings.is_checked():
            self._check(path)

    def _check(self, path: str) -> None:
        if not os.path.isdir(self._folder):
            raise ConfigError(
                f'metrics-file {path}: directory {self._folder} does not exist'
            )
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f'metrics-file {path}: no permission to write to {self._folder}'
            )
        try:
            trusted.check(self._folder)
            self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(self._message(error)) from error

    def write(
        self, progress: Progress, success: bool, patience: float = _LOCK_SECONDS
    ) -> None:
        """Write the result of the run. Atomic: readers see the old or the new file.

        :param patience: seconds to wait for other agents that write the same file
        :raises FreezerError: it could not be written
        """
        try:
            with self._locked(patience) as folder:
                samples = self._read()
                samples |= self._of_run(progress, success, samples)
                self._replace(folder, _dump(samples))
        except (OSError, ValueError) as error:
            raise FreezerError(self._message(error)) from error

    def _message(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f'metrics-file {self._path}: {reason}'

    def _of_run(
        self, progress: Progress, success: bool, before: Mapping[_Sample, float]
    ) -> dict[_Sample, float]:
        now = time.time()
        values: dict[str, float | None] = {
            'freezer_last_run_timestamp_seconds': now,
            'freezer_last_run_success': success,
            'freezer_last_run_duration_seconds': progress.seconds,
            'freezer_last_run_retries': progress.retries,
            'freezer_last_run_warnings': progress.warnings,
            'freezer_last_run_incomplete': progress.incomplete,
        }
        last = _Sample('freezer_last_success_timestamp_seconds', self._labels)
        if success:
            values |= {
                last.name: now,
                'freezer_last_success_duration_seconds': progress.seconds,
            }
            if self._config.action in _MOVES_DATA:
                values |= {
                    'freezer_last_success_level': progress.level,
                    'freezer_last_success_files': progress.files,
                    'freezer_last_success_read_bytes': progress.archive_bytes,
                    'freezer_last_success_stored_bytes': progress.stored_bytes,
                }
        elif last not in before:
            values[last.name] = 0
        return {
            _Sample(name, self._labels): float(value)
            for name, value in values.items()
            if value is not None
        }

    def _read(self) -> dict[_Sample, float]:
        """The metrics in the file; empty if it does not exist.

        :raises OSError: it cannot be read
        :raises ValueError: this agent did not write it; with a message for the user
        """
        # Optional: the extra freezer[metrics].
        from prometheus_client.parser import text_string_to_metric_families

        try:
            with open(self._path, encoding='utf-8') as stream:
                text = stream.read()
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError as error:
            raise ValueError(_FOREIGN) from error
        found: dict[_Sample, float] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    labels = tuple(sample.labels[name] for name in _LABELS)
                    if sample.name not in HELP:
                        raise ValueError(sample.name)
                    found[_Sample(sample.name, labels)] = sample.value
        except (ValueError, KeyError) as error:
            raise ValueError(_FOREIGN) from error
        return found

    def _replace(self, folder: int, content: bytes) -> None:
        """:param folder: descriptor of the directory"""
        # node_exporter ignores this name.
        temporary = f'.freezer-{secrets.token_hex(8)}.tmp'
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with open(descriptor, 'wb') as stream:
                stream.write(content)
                stream.flush()
                os.fchmod(stream.fileno(), _MODE)
                # Without it the file may be empty after a crash.
                os.fsync(stream.fileno())
            name = os.path.basename(self._path)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise

    @contextlib.contextmanager
    def _locked(self, patience: float) -> Iterator[int]:
        """A block that one agent at a time runs, with a descriptor of the directory,
        which is locked: the file itself is replaced, and a lock file would remain.

        :raises ValueError: another process holds the lock for too long
        """
        folder = trusted.open_file(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise ValueError(
                            f'another process has locked {self._folder} for more '
                            f'than {patience:g} s'
                        ) from error
                time.sleep(_POLL_SECONDS)
            yield folder
        finally:
            os.close(folder)


_FOREIGN = 'not a metrics file of this agent: use another name, or remove the file'


def _dump(samples: Mapping[_Sample, float]) -> bytes:
    # Optional: the extra freezer[metrics].
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Any] = {
        name: Gauge(name, text, _LABELS, registry=registry)
        for name, text in HELP.items()
        if any(sample.name == name for sample in samples)
    }
    for sample, value in sorted(samples.items()):
        gauges[sample.name].labels(*sample.labels).set(value)
    return generate_latest(registry)
