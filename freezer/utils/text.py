"""Text for people, made of what may not be text: names of files."""


def printable(text: str) -> str:
    """The text with what a terminal would obey, or cannot show, as escapes."""
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )
