"""Filters of a byte stream: each takes an iterable of blocks and returns an iterator.

They are composed by nesting, hold a bounded number of bytes, and work in the thread
that reads from them.
"""
