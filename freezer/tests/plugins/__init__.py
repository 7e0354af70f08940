"""A package of plugins as somebody else would write it, for driver.rst."""
