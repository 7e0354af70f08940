"""Which version this is."""


def version() -> str:
    """As it was installed; read from the package's metadata."""
    import importlib.metadata

    return importlib.metadata.version('freezer')
