"""Engines rsync and rsyncv2 of Freezer 19: their backups are read, and none is made."""
