"""How many requests are under way at once, and for how long. Pure: ``--help`` imports
this."""

#: seconds that leftovers must not have changed for, to be removed
STALE_AFTER = 24 * 3600.0
#: seconds for a request while other storages wait; but two repetitions are possible
PATIENCE = 60.0
#: bytes of parts or ranges under way, and numbers of connections; decision 0008
MEMORY_UNDER_WAY = 128 * 2**20
LEAST_AT_ONCE, MOST_AT_ONCE = 4, 16


def at_once(size: int) -> int:
    """How many parts or ranges of so many bytes are under way at once."""
    fitting = MEMORY_UNDER_WAY // max(size, 1)
    return max(LEAST_AT_ONCE, min(fitting, MOST_AT_ONCE))
