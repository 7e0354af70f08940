"""A storage, an engine, a mode and a snapshot for SQLite databases."""
