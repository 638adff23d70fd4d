"""torch.distributed.run, which tells in one line who has ended a run.

Its flags and its way of starting processes are torch's. If a process dies, the others
get SIGTERM at once and are killed 30 seconds later; the last line names the first one
and what it said last.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from mergevq_mm.utils.last_line import FOLDER, chosen_codes, who_ended


def world_of(args: argparse.Namespace) -> int | None:
    """The number of processes, where the command line says it."""
    each, (least, _, most) = str(args.nproc_per_node), str(args.nnodes).partition(':')
    if each.isdigit() and most in ('', least):
        return int(each) * int(least)
    return None


def main() -> None:
    args = parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix='mergevq_last_lines_') as folder:
        os.environ[FOLDER] = folder
        try:
            run(args)
        except SignalException as stop:  # the processes have saved
            sys.exit(128 + stop.sigval)
        except ChildFailedError as error:
            found = {rank: one.exitcode for rank, one in error.failures.items()}
            codes = chosen_codes(folder, found)
            asked = {128 + number for number in (1, 2, 10, 15)} & set(codes.values())
            if asked and asked == set(codes.values()):
                sys.exit(asked.pop())  # each of them has said so
            sys.exit(f'error: {who_ended(folder, codes, world_of(args))}')


if __name__ == '__main__':
    main()
