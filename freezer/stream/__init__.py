"""Filters of a byte stream: each takes an iterable of blocks and gives an iterator.

They compose by nesting, hold a bounded number of bytes, and do their work in the thread
that pulls.
"""
