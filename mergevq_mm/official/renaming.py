"""Names of weights in two layouts: one table that reads in both directions."""

from __future__ import annotations

import re
from collections.abc import Sequence

# (their prefix, our prefix). '#' is a number that both have; '~' is one that they count
# from the other end.
Pairs = Sequence[tuple[str, str]]


def rename(
    name: str,
    pairs: Pairs,
    inner: Pairs = (),
    count: int = 0,
    back: bool = False,
) -> str | None:
    """Translate the name of a weight.

    Args:
        name (str): The name.
        pairs (Sequence[tuple[str, str]]): Prefixes in the two layouts, each up to a dot
            or to the end of the name.
        inner (Sequence[tuple[str, str]]): Parts of what follows a prefix, without
            numbers. Defaults to ().
        count (int): Number of things that '~' counts. Defaults to 0.
        back (bool): Whether to translate from ours to theirs. Defaults to False.

    Returns:
        str | None: The name in the other layout; None if no prefix fits.
    """
    for theirs, ours in pairs:
        source, target = (ours, theirs) if back else (theirs, ours)
        pattern = re.escape(source).replace(r'\#', r'(\d+)').replace(r'\~', r'(\d+)')
        match = re.match(pattern + r'(?=\.|$)', name)
        if match is None:
            continue
        number = match[1] if match.groups() else ''
        if '~' in source:
            number = str(count - 1 - int(number))
        rest = name[match.end() :]
        for their_part, our_part in inner:
            old, new = (our_part, their_part) if back else (their_part, our_part)
            rest = re.sub(rf'(?<=\.){re.escape(old)}(?=\.|$)', new, rest)
        return re.sub('[#~]', number, target) + rest
    return None
