"""Excludes files by their size, and directories by a file in them."""

import dataclasses
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from freezer.exceptions import ConfigError
from freezer.utils import human

_CACHE_TAG: Final = b'CACHEDIR.TAG'
# https://bford.info/cachedir/
_CACHE_SIGNATURE: Final = b'Signature: 8a477f597d28d172789f06886806bc55'
_READ_AT_ONCE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True)
class ExcludeRules:
    """
    :ivar larger_than: files with more bytes are excluded; None for no limit
    :ivar caches: exclude the contents of directories with a CACHEDIR.TAG
    :ivar if_present: exclude the contents of directories that have a file of one of
        these names
    """

    larger_than: int | None = None
    caches: bool = False
    if_present: frozenset[bytes] = frozenset()

    def markers(
        self, folder: int, names: Mapping[bytes, os.stat_result], follow: bool
    ) -> tuple[str, set[bytes]] | None:
        """The reason why what is in a directory is left out, and the names that stay;
        None if it is not left out.

        :param folder: descriptor of the directory
        :param names: what is in it
        :param follow: whether symbolic links are followed
        """
        found = {
            name
            for name in self.if_present
            if name in names and not stat.S_ISDIR(names[name].st_mode)
        }
        reasons = [f'beside {os.fsdecode(name)}' for name in sorted(found)]
        if (
            self.caches
            and _CACHE_TAG in names
            and _is_tag(folder, names[_CACHE_TAG], follow)
        ):
            reasons.append('in caches')
            found.add(_CACHE_TAG)
        return (reasons[-1], found) if found else None

    def too_large(self, status: os.stat_result) -> str | None:
        """The reason why a file is left out; None if it is not."""
        limit = self.larger_than
        if limit is None or status.st_size <= limit or not stat.S_ISREG(status.st_mode):
            return None
        return f'larger than {human.size(limit)}'


def rules_of(options: Mapping[str, Any]) -> ExcludeRules:
    """:param options: those of the engine
    :raises ConfigError: one of them is not the name of a file
    """
    for name in options['exclude_if_present']:
        if not name or '/' in name or name in ('.', '..'):
            raise ConfigError(
                f'exclude-if-present {name!r}: give the name of a file, without a path'
            )
    return ExcludeRules(
        options['exclude_larger_than'],
        options['exclude_caches'],
        frozenset(map(os.fsencode, options['exclude_if_present'])),
    )


def _is_tag(folder: int, status: os.stat_result, follow: bool) -> bool:
    """Whether the file with the name of a tag is one. One that cannot be read is not:
    then more is backed up."""
    if not stat.S_ISREG(status.st_mode):
        return False
    flags = _READ_AT_ONCE if follow else _READ_AT_ONCE | os.O_NOFOLLOW
    try:
        file = os.open(_CACHE_TAG, flags, dir_fd=folder)
    except OSError:
        return False
    try:
        return os.read(file, len(_CACHE_SIGNATURE)) == _CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(file)
