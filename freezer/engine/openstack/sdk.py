"""Whether openstacksdk is there, which the extra ``openstack`` installs."""

import contextlib
import importlib.util
from collections.abc import Iterator

from freezer.exceptions import ConfigError


def check_installed(engine: str) -> None:
    """Without importing it, which takes a quarter of a second.

    :raises ConfigError: it is missing
    """
    if importlib.util.find_spec('openstack') is None:
        raise ConfigError(
            f"engine {engine} needs openstacksdk: pip install 'freezer[openstack]'"
        )


@contextlib.contextmanager
def imported() -> Iterator[None]:
    """A block that imports modules which need it.

    :raises ConfigError: one cannot be imported
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f'openstacksdk cannot be imported: {error}: pip install '
            f"'freezer[openstack]'"
        ) from error
