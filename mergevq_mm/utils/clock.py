"""Durations as people read them."""


def clock(seconds: float) -> str:
    """Write a duration as ``h:mm:ss``.

    Args:
        seconds (float): The duration, s.

    Returns:
        str: For example ``'0:03:07'``.
    """
    whole = max(0, round(seconds))
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'
