"""Dates in the headers of HTTP answers."""

import email.utils
import time
from collections.abc import Mapping


def epoch(date: str) -> float | None:
    """Epoch seconds of an HTTP date; None if it is not one."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait; None if there is no Retry-After, or an
    unreadable one.

    :param headers: by their names in lower case
    """
    asked = headers.get('retry-after', '').strip()
    if asked.isdecimal():
        return float(asked)
    moment = epoch(asked)
    if moment is None:
        return None
    # By the server's clock, if the answer has it.
    now = epoch(headers.get('date', ''))
    return max(0.0, moment - (time.time() if now is None else now))
