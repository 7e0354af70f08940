"""Every option there is, for oslo-config-generator."""

from typing import Any


def list_opts() -> list[tuple[str | None, list[Any]]]:
    """(group, options), the agent's own and those of every storage driver."""
    from freezer.common import config

    return [
        (group, list(options)) for group, options in config.declared_options().items()
    ]
