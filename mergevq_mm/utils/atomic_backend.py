"""The local disk as a backend of mmengine's, written atomically and cleared late."""

from __future__ import annotations

import logging
import os

from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import print_log

from .fileio import write_atomically


@register_backend('mergevq_atomic', force=True)
class AtomicLocalBackend(LocalBackend):
    """The local disk, written atomically and cleared late.

    Select it by ``backend_args=dict(backend='mergevq_atomic')``. mmengine removes
    outdated checkpoints before it writes new ones; here removals are only noted, and
    happen in :meth:`remove_outdated`, which is called once the new file is there.
    """

    def __init__(self) -> None:
        self.outdated: list[str] = []
        self._warned: set[str] = set()

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes atomically.

        Args:
            obj (bytes): What to write.
            filepath (str | PathLike): Where.
        """
        write_atomically(obj, filepath)

    def put_text(
        self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8'
    ) -> None:
        """Write text atomically.

        Args:
            obj (str): What to write.
            filepath (str | PathLike): Where.
            encoding (str): Defaults to 'utf-8'.
        """
        write_atomically(obj.encode(encoding), filepath)

    def remove(self, filepath: str | os.PathLike) -> None:
        """Note a file as outdated.

        Args:
            filepath (str | PathLike): The file.
        """
        self.outdated.append(str(filepath))

    def remove_outdated(self, keep: tuple[str | None, ...] = ()) -> None:
        """Delete the files noted; one that cannot be deleted stays noted.

        It is tried again the next time, and warned of once.

        Args:
            keep (tuple[str | None, ...]): Files to leave, as they have been written
                anew. Defaults to ().
        """
        left = []
        for filepath in dict.fromkeys(self.outdated):
            if filepath in keep:
                continue
            try:
                os.remove(filepath)
            except FileNotFoundError:
                pass
            except OSError as error:
                left.append(filepath)
                if filepath not in self._warned:
                    self._warned.add(filepath)
                    print_log(
                        f'The outdated checkpoint "{filepath}" cannot be deleted '
                        f'({error.strerror}); the run goes on and tries again.',
                        logger='current',
                        level=logging.WARNING,
                    )
        self.outdated = left
