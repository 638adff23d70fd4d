"""Early check of the files of weights that metrics are configured with."""

from __future__ import annotations

import os


def check_weights_path(path_or_url: str | None, argument: str) -> None:
    """Stop early where a local file of weights is not there.

    Args:
        path_or_url (str, optional): Path, or URL (known only once it is loaded).
        argument (str): Name of the argument for the message.

    Raises:
        FileNotFoundError: If it is a local path and there is no such file.
    """
    if not path_or_url or '://' in path_or_url:
        return
    if os.path.isfile(os.path.expanduser(path_or_url)):
        return
    raise FileNotFoundError(
        f'{argument}={path_or_url!r} is no file; give the path of downloaded weights '
        'or a URL, or leave this metric out of the evaluator.'
    )
