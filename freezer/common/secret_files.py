"""Files with secrets that other users of the machine can read."""

import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from freezer.common import config_files, job_options, jobfile, plugins, storages


def find(
    conf: cfg.ConfigOpts, values: Mapping[str, Any], job: jobfile.JobFile | None
) -> Iterator[str]:
    """The files with a secret: configuration that has one, and key files.

    :param values: fields of AgentConfig
    """
    declared = [
        options.secret_files
        for kind in plugins.KINDS
        for options in plugins.options(kind).values()
    ]
    keys = ('encrypt_pass_file', *(key for each in declared for key in each))
    given = [
        values,
        *(settings.options for _driver, settings in storages.all_of(values)),
    ]
    given += [values[f'{kind}_options'] for kind in ('engine', 'mode', 'snapshot')]
    for options in given:
        yield from (str(options[key]) for key in keys if options.get(key))
    files = config_files.paths(conf)
    if job is None and not files:
        return
    known = job_options.keys_of(conf)
    secret = {name for name, key in known.items() if key.secret}
    if job is not None and any(
        _holds_secret(section.values.items(), secret)
        for section in (*job.main, *job.storages)
    ):
        yield job.path
    for path in files:
        found = (
            (name if group == 'DEFAULT' else f'{group.lower()}_{name}', value)
            for group, options in config_files.read(path).items()
            for name, lines in options.items()
            for value in lines
        )
        if _holds_secret(found, secret):
            yield path


def _holds_secret(found: Iterable[tuple[str, str]], secret: Container[str]) -> bool:
    for name, value in found:
        if not value:
            continue
        name = name.replace('-', '_')
        # The URL of a proxy may hold a password.
        if name in secret or (name == 'proxy' and '@' in value):
            return True
    return False


def warnings(paths: Iterable[str]) -> Iterator[str]:
    """A line for each file that users other than its owner can read.

    A group may read files of root: that is how services get theirs.

    :param paths: of files with a secret; all but regular files are skipped
    """
    for path in dict.fromkeys(paths):
        try:
            status = os.stat(path)
        except OSError:
            # The code that opens it reports the error.
            continue
        forbidden = stat.S_IROTH if status.st_uid == 0 else stat.S_IROTH | stat.S_IRGRP
        if stat.S_ISREG(status.st_mode) and status.st_mode & forbidden:
            mode = stat.S_IMODE(status.st_mode)
            yield (
                f'{path} holds a secret, and others can read it (mode {mode:04o}): '
                f'chmod 600 {path}'
            )
