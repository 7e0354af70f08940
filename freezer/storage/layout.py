"""All names and paths on storage. Pure functions; the format is Freezer's.

::

    P/data/E/H/Z/L_T/data               the archive stream, or its first volume
    P/data/E/H/Z/L_T/segments/%08d      further volumes, from 1
    P/data/E/H/Z/L_T/digests/%08d       the digests of each volume, from 0
    P/data/E/H/Z/L_T/manifest           sizes and digests
    P/data/E/H/Z/L_T/engine_metadata    what the engine needs for the next increment
    P/data/E/H/Z/L_T/identity.age       the key, if it is encrypted in format age
    P/data/E/H/Z/L_T/index              the members of the archive; optional
    P/data/E/H/Z/L_T/parts/<name>/      instead of data, segments, digests and manifest:
                                        those of each part, if the level has parts
    P/metadata/E/H/Z/L_T/metadata       written last: the commit marker
    P/metadata/E/H/Z/L_T/pinned         no retention removes this state; optional
    P/check/<random>/                   temporary objects of a storage check

``P`` is the container as given, ``E`` the engine, ``H`` ``<hostname>_<backup name>``,
``Z`` the epoch second of the chain's level 0, ``L`` the level, ``T`` its epoch second.
``manifest``, ``digests``, ``identity.age``, ``index``, ``parts`` and ``pinned`` are
this agent's own. Freezer 19 ignores them, and cannot restore a level with parts.
"""

import re
from typing import NamedTuple

DATA = 'data'
METADATA = 'metadata'
MANIFEST = 'manifest'
ENGINE_METADATA = 'engine_metadata'
SEGMENTS = 'segments'
DIGESTS = 'digests'
CHECK = 'check'
IDENTITY = 'identity.age'
INDEX = 'index'
PINNED = 'pinned'
PARTS = 'parts'

# Key in the commit marker: the encryption format, unless it is Freezer's own.
FORMAT_KEY = 'encryption_format'
AGE = 'age'
# Key in the commit marker: how many files, or attributes of files, could not be read;
# absent if the backup is complete.
INCOMPLETE_KEY = 'incomplete'
# Key in the commit marker: of how many files the archive has no end, or only zeros in
# its place; absent if there are none. The engine's file has their names.
PADDED_KEY = 'padded'
# Keys in the commit marker: a list of texts, and a text; absent if there are none.
TAGS_KEY = 'tags'
NOTE_KEY = 'note'
# Key in the commit marker: an object of texts, what the engine says of the source, such
# as the version of a server; absent if it says nothing.
ABOUT_KEY = 'about'
# Key in the commit marker: a dictionary of what the mode says of the application, such
# as its version; absent if that is nothing.
APPLICATION_KEY = 'application'

# The name of a part: safe in a path and in a key, also where upper and lower case are
# the same.
PART_NAME = re.compile(r'[a-z0-9][a-z0-9_-]{0,62}\Z')

# A number with more digits is not a time: this many are enough until the year 5138.
_SECONDS = '[0-9]{1,11}'
# Nor is one a level: with a backup every minute a chain has as many after two years.
_LEVEL = '0|[1-9][0-9]{0,5}'
_PART_MANIFEST = re.compile(rf'{PARTS}/[^/]+/{MANIFEST}\Z')
_LEVEL_NAME = re.compile(rf'({_LEVEL})_({_SECONDS})\Z')
# An identity may have slashes: engine nova's is <host>_<name>/<server id>.
_PATH = re.compile(
    rf'(data|metadata)/([^/]+)/(.+?)/({_SECONDS})/({_LEVEL})_({_SECONDS})/(.+)\Z',
    re.DOTALL,
)
_MARKER_BELOW = re.compile(
    rf'(.+?)/metadata/[^/]+/.+/{_SECONDS}/(?:0|[1-9][0-9]*)_{_SECONDS}/metadata\Z',
    re.DOTALL,
)


def join(*parts: str) -> str:
    """Join with single slashes, without normalising.

    Freezer 19 does the same, and its backups under ``bucket/prefix/`` have a double
    slash in their keys: a normalised path would not find them.
    """
    return '/'.join(parts)


def level_name(level: int, timestamp: int) -> str:
    return f'{level}_{timestamp}'


def parse_level_name(name: str) -> tuple[int, int] | None:
    """``'1_1700000000'`` -> ``(1, 1700000000)``; None if malformed."""
    match = _LEVEL_NAME.match(name)
    return (int(match[1]), int(match[2])) if match else None


def volume_name(number: int) -> str:
    """The path of a volume, numbered from 0, below the level's folder."""
    return DATA if number == 0 else f'{SEGMENTS}/{number:08d}'


def digests_name(number: int) -> str:
    """The path of a volume's digests, numbered from 0, below the level's folder."""
    return f'{DIGESTS}/{number:08d}'


def part_name(part: str) -> str:
    """The path of a part's folder, below the level's folder."""
    return f'{PARTS}/{part}'


def is_manifest(name: str) -> bool:
    """Whether a path below the level's folder is the manifest of a stream."""
    return name == MANIFEST or _PART_MANIFEST.match(name) is not None


class Location(NamedTuple):
    """The parts of a path below the container."""

    kind: str
    engine: str
    identity: str
    level_zero: int
    level: int
    timestamp: int
    name: str


def parse(path: str) -> Location | None:
    """Parse a path relative to the container; None if it is not of this layout."""
    match = _PATH.match(path)
    if match is None:
        return None
    kind, engine, identity, level_zero, level, timestamp, name = match.groups()
    return Location(
        kind, engine, identity, int(level_zero), int(level), int(timestamp), name
    )


def prefix(path: str) -> str | None:
    """The container below this one that a path is a commit marker of; None if none."""
    match = _MARKER_BELOW.match(path)
    return match[1] if match else None


def split_identity(identity: str) -> tuple[str, str]:
    """``'host_name'`` -> ``('host', 'name')``, for display only.

    The storage does not record where the host name ends; a DNS host name has no
    underscore, so the first one is taken.
    """
    host, _, name = identity.partition('_')
    return host, name


def is_ambiguous(identity: str) -> bool:
    """Whether :func:`split_identity` may be wrong, as the host name may end later."""
    return identity.count('_') > 1
