"""Formats numbers for people."""

_UNITS = ('KiB', 'MiB', 'GiB', 'TiB', 'PiB')
# From here on a number would be rounded up to 1000: use the next unit.
_FULL = 999.95


def size(count: float) -> str:
    """``1.5 GiB``; below a KiB ``512 B``."""
    if count < 1024:
        return f'{count:.0f} B'
    value = count / 1024
    for unit in _UNITS[:-1]:
        if value < _FULL:
            return f'{value:.1f} {unit}'
        value /= 1024
    return f'{value:.1f} {_UNITS[-1]}'


def speed(count: float, seconds: float) -> str:
    """``48.2 MiB/s``."""
    return f'{size(count / seconds if seconds > 0 else 0)}/s'


def clock(seconds: float) -> str:
    """``0:26``, ``1:02:03``, ``2 d 01:02:03``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f'{days} d {hour:02}:{minute:02}:{second:02}'
    if hour:
        return f'{hour}:{minute:02}:{second:02}'
    return f'{minute}:{second:02}'


def duration(seconds: float) -> str:
    """``0.4 s``, ``26 s``; from a minute on as :func:`clock`."""
    if seconds < 10:
        return f'{seconds:.1f} s'
    return f'{seconds:.0f} s' if seconds < 60 else clock(seconds)


def number(count: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f'{count} {what}{"s" * (count != 1)}'


def shortened(text: str, length: int) -> str:
    """The text, or so many characters of it and ``…``."""
    return text if len(text) <= length else text[:length] + '…'
