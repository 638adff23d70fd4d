"""Workers of a pool that do not outlive the process that has begun them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def leave_with_parent() -> None:
    """End this process as soon as its parent has ended, however that came.

    For ``initializer`` of a ``ProcessPoolExecutor``: its workers go on with what they
    have, and then with what is queued, where the parent was killed.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # nobody is left to hear of it

    threading.Thread(target=watch, daemon=True).start()
