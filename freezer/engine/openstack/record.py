"""What is stored of an image beside its data: a JSON document, and digests."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

#: an image, as the API of Glance shows it
Record = Mapping[str, Any]

VERSION = 1
# Of images without a hash, and of those whose hash is another one.
_ALGORITHM = 'sha512'
# Set by Glance.
_READ_ONLY = frozenset(
    (
        *('id', 'status', 'created_at', 'updated_at', 'size', 'virtual_size', 'owner'),
        *('checksum', 'os_hash_algo', 'os_hash_value', 'self', 'file', 'schema'),
        *('locations', 'direct_url', 'stores'),
    )
)
_RESERVED = 'os_glance_'
# Freezer 19 stores a record as openstacksdk has it -> the names of the API.
_SDK_NAMES = {
    'is_hidden': 'os_hidden',
    'is_protected': 'protected',
    'hash_algo': 'os_hash_algo',
    'hash_value': 'os_hash_value',
    'owner_id': 'owner',
    'needs_config_drive': 'img_config_drive',
    'needs_secure_boot': 'os_secure_boot',
    'is_hw_vif_multiqueue_enabled': 'hw_vif_multiqueue_enabled',
    'is_hw_boot_menu_enabled': 'hw_boot_menu',
    'has_auto_disk_config': 'auto_disk_config',
}
_SDK_ONLY = frozenset(('properties', 'location', 'metadata', 'store', 'url'))
_NOT_TEXT = ('protected', 'os_hidden', 'tags', 'min_disk', 'min_ram')


class Digests:
    """The digests of the data of an image, as it is read or written."""

    def __init__(self, record: Record) -> None:
        given = str(record.get('os_hash_algo') or _ALGORITHM)
        names = {given, _ALGORITHM} & hashlib.algorithms_available
        self._hashes = {name: hashlib.new(name) for name in sorted(names)}
        self.size = 0

    def update(self, block: Block) -> None:
        self.size += len(block)
        for each in self._hashes.values():
            each.update(block)

    def values(self) -> dict[str, str]:
        """Algorithm -> hexadecimal digest."""
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def problem(self, record: Record) -> str | None:
        """How the data differs from what Glance recorded of it; None if it does not."""
        if self.size != record['size']:
            return f'{self.size} bytes instead of {record["size"]}'
        name = record.get('os_hash_algo')
        found = self.values().get(str(name))
        if found is not None and found != record.get('os_hash_value'):
            return f'its {name} differs from the recorded one'
        return None

    def can_check(self, record: Record) -> bool:
        """Whether Glance recorded a hash that can be compared."""
        return bool(record.get('os_hash_value')) and (
            record.get('os_hash_algo') in self._hashes
        )


@dataclass(frozen=True)
class ImageState:
    """The engine's file of a level.

    :param record: the image when the level was made
    :param digests: of its data: algorithm -> hexadecimal digest; empty if the level was
        made by Freezer 19
    """

    record: Record
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, content: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            document = json.loads(content)
            record, digests = document['image'], document['digests']
            version = document['version']
            if version != VERSION:
                raise EngineError(
                    f'the record of the image has version {version!r}, which is not '
                    f'known: use a newer agent'
                )
            state = cls(dict(record), dict(digests))
            int(state.record['size'])
        except (ValueError, TypeError, KeyError) as error:
            raise EngineError('the record of the image is damaged') from error
        return state

    def dump(self) -> bytes:
        """The keys before ``version`` are those of Freezer 19."""
        record = self.record
        document = {
            'image_name': record.get('name'),
            'image_id': record['id'],
            'disk_format': record.get('disk_format'),
            'container_format': record.get('container_format'),
            'visibility': record.get('visibility'),
            'length': str(record['size']),
            'protected': record.get('protected'),
            'version': VERSION,
            'digests': dict(self.digests),
            'image': dict(record),
        }
        return json.dumps(document, indent=1).encode()

    def has_data_of(self, record: Record) -> bool:
        """Whether an image has the data that this level describes."""
        mine = self.record
        keys = ('id', 'size', 'os_hash_algo', 'os_hash_value')
        return bool(mine.get('os_hash_value')) and all(
            mine.get(key) == record.get(key) for key in keys
        )

    def problem(self, digests: Digests) -> str | None:
        """How restored data differs from the backup; None if it does not."""
        found = digests.values()
        for name, value in self.digests.items():
            if name in found and found[name] != value:
                return f'its {name} differs from the recorded one'
        return digests.problem(self.record)

    def new_image(self, name: str | None, tags: Iterable[str]) -> dict[str, Any]:
        """The fields of an image to create, which is not protected yet.

        :param name: None for the recorded one
        :param tags: more tags
        """
        fields = {
            key: value
            for key, value in self.record.items()
            if key not in _READ_ONLY
            and not key.startswith(_RESERVED)
            and value is not None
        }
        if name:
            fields['name'] = name
        own = self.record.get('tags', ())
        return {**fields, 'protected': False, 'tags': [*own, *tags]}


def of_freezer_19(state: bytes, image: Mapping[str, Any]) -> bytes:
    """The engine's file of a level that Freezer 19 made, in the present form.

    :param state: as Freezer 19 wrote it
    :param image: from its marker
    :raises EngineError: one of them is damaged
    """
    try:
        old = json.loads(state)
        size = int(old['length'])
        found = {**image, **dict(image.get('properties') or {})}
        record = {
            _SDK_NAMES.get(key, key): value
            for key, value in found.items()
            if value is not None and key not in _SDK_ONLY
        }
        for key, value in record.items():
            if isinstance(value, bool | int) and key not in _NOT_TEXT:
                record[key] = str(value).lower()
        for new, key in (
            ('id', 'image_id'),
            ('name', 'image_name'),
            ('disk_format', 'disk_format'),
            ('container_format', 'container_format'),
            ('visibility', 'visibility'),
        ):
            record.setdefault(new, old[key])
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError('the record of the image is damaged') from error
    return ImageState({**record, 'size': size}).dump()
