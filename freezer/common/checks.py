"""Checks of values of options. Each raises ConfigError."""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from freezer.exceptions import ConfigError
from freezer.storage.base import StorageSettings
from freezer.utils import trusted
from freezer.utils.text import control_character, unfit

# Of what a backup may record; in characters.
_MAX_TAGS = 16
_MAX_TAG = 64
_MAX_NOTE = 500


def check_labels(tags: Sequence[str], note: str) -> None:
    """Check tags and note. Control characters are refused in all options.

    :raises ConfigError: one is malformed, too long, or there are too many
    """
    if len(tags) > _MAX_TAGS:
        raise ConfigError(f'tag: {len(tags)} tags: at most {_MAX_TAGS} are possible')
    for name, longest, texts in (('tag', _MAX_TAG, tags), ('note', _MAX_NOTE, [note])):
        for text in texts:
            if problem := unfit(text):
                raise ConfigError(f'{name} {text!r}: {problem}: write another')
            if len(text) > longest:
                raise ConfigError(
                    f'{name}: {len(text)} characters: at most {longest} are possible'
                )
    for tag in tags:
        if tag.split() != [tag] or ',' in tag:
            raise ConfigError(f'tag {tag!r}: must be one word without commas')


def check_path_part(name: str, value: str) -> None:
    if found := control_character(value):
        # The host name of the machine, which is no option.
        raise ConfigError(f'{name.replace("_", "-")}: contains {found}: set another')
    parts = value.split('/')
    if '..' in parts or '.' in parts or '' in parts:
        raise ConfigError(
            f'{name.replace("_", "-")} {value!r}: becomes part of a path: remove empty '
            f'parts, "." and ".."'
        )


def check_utf8(settings: StorageSettings, values: Mapping[str, Any]) -> None:
    """:raises ConfigError: a name is not UTF-8, and its storage has no other names"""
    where = f'{settings.section}: ' if settings.name else ''
    names = {
        f'{where}container': settings.container,
        **{
            name.replace('_', '-'): values[name] for name in ('hostname', 'backup_name')
        },
    }
    for name, value in names.items():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f'{name} {value!r}: not UTF-8, which names on this storage must be: '
                f'choose another'
            ) from error


def check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        parts.port  # noqa: B018 - raises where it is not a number
        good = parts.scheme in ('http', 'https') and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        # Neither the value nor the reason: they may contain a password.
        raise ConfigError(
            'proxy: must be a URL that starts with http:// or https://, as in '
            'http://proxy.example.com:3128'
        )


def check_metadata_out(path: str) -> None:
    """Check whether the file can be written, without writing it."""
    folder = os.path.dirname(path) or '.'
    if os.path.isdir(path):
        reason = 'is a directory'
    elif not os.path.isdir(folder):
        reason = f'there is no directory {folder}'
    elif not os.access(path if os.path.lexists(path) else folder, os.W_OK):
        reason = 'cannot be written'
    else:
        try:
            trusted.check(path)
            return
        except OSError as error:
            reason = error.strerror or str(error)
    raise ConfigError(f'metadata-out {path}: {reason}')
