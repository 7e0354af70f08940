"""What is known of one backup beyond its name: its marker, its manifest, its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from freezer.storage import layout, manifest
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.verify import Stat

if TYPE_CHECKING:
    from freezer.storage.base import Backup


@dataclass(frozen=True)
class Details:
    """How a backup was made, and how it is kept.

    :param size: bytes of its stream, as stored
    :param volumes: how many objects the stream became
    :param digests: whether there are any; Freezer 19 wrote none
    :param stat: what the storage says of the first volume; all are written alike
    :param marker: the content of its marker
    """

    size: int
    volumes: int
    digests: bool
    stat: Stat
    marker: Mapping[str, Any]


class Readable(Protocol):
    """A storage, as far as it is needed here."""

    def stat(self, path: str) -> Stat: ...

    def manifest_of(
        self, backup: 'Backup', marker: Mapping[str, Any] | None = None
    ) -> manifest.Manifest | None: ...


def look(storage: Readable, backup: 'Backup') -> Details:
    """Three requests: the marker, the manifest, the first volume's attributes.

    :raises NotFound: there is no marker: it is removed
    :raises IntegrityError: marker or manifest is damaged, or the data missing
    """
    marker = backup.metadata()
    found = storage.manifest_of(backup, marker)
    first = found.volumes[0].name if found else layout.DATA
    try:
        stat = storage.stat(layout.join(backup.data_prefix_path, first))
    except NotFound as error:
        raise IntegrityError(
            f'{error.message}: the backup is listed and has no data'
        ) from error
    if found is None:
        return Details(stat.size, 1, False, stat, marker)
    return Details(found.size, len(found.volumes), True, stat, marker)
