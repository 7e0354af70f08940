"""What is said of what was tidied up."""

from freezer.storage.housekeeping import Leftover


def test_what_is_said() -> None:
    left = Leftover('s3://b/f', 2, 1, 10)
    assert str(left) == 's3://b/f: 2 objects and 1 open upload, 10 bytes'
    assert not Leftover('s3://b/f', 0, 0, 0)
