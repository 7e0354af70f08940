"""The target of a restore, if it is a directory."""

import os

from freezer.exceptions import ConfigError, RestoreError


def check_directory(path: str | None, overwrite: bool) -> str:
    """See :meth:`freezer.engine.engine.Engine.check_target`."""
    if not path:
        raise ConfigError(
            'restore-abs-path is required for action restore: give '
            '--restore-abs-path, or restore_abs_path in the job file'
        )
    target = os.path.abspath(path)
    try:
        present = os.listdir(target)
    except FileNotFoundError:
        return target
    except OSError as error:
        raise RestoreError(f'restore-abs-path {target}: {error.strerror}') from error
    if present and not overwrite:
        raise RestoreError(
            f'restore-abs-path {target} is not empty: choose another, or give '
            f'--overwrite, which also removes what the backup does not hold, or '
            f'--keep-extra, which removes nothing'
        )
    return target
