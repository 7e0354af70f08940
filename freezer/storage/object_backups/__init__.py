"""Backups in a store of objects: streams cut into parts, claimed, committed, read.

What these modules need of the store is ``objects.BackupStore``.
"""
