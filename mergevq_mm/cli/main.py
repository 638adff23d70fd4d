"""Reads the command line and calls what it asks for.

Nothing heavy is imported before a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .arguments import add_commands

PROGRAM = 'mergevq'
DESCRIPTION = """\
MergeVQ on your own images: a few tokens that stand for an image, and back.

  models       list the models that there are configs of
  reconstruct  images to K tokens and back, with a map of what has merged
  encode       images to small token files;  decode brings them back
  features     images to features, for probes and searches
  generate     images of classes, by a trained generator
  edit         a region of an image drawn anew
  export       a checkpoint of a training run to a folder for others
  export-onnx  a model to graphs that onnxruntime runs without torch
  web          a page to play with, on this machine
"""
EPILOG = """\
A MODEL is a folder that `export` wrote, or a config or a name of `models` with the
path of its weights after --weights.

  mergevq reconstruct FOLDER cat.jpg --keep 256 64 --out pictures
  mergevq encode CONFIG.py photographs --weights epoch_18.pth --out tokens

`mergevq COMMAND --help` explains a command. Training is in tools/train.py.
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv (Sequence[str], optional): Words. Defaults to None, those of the process.

    Returns:
        Namespace: With ``run``, the function of the command.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s [-h] [--version] COMMAND ...',
    )
    parser.add_argument('--version', action='store_true', help='print it and exit')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', prog=PROGRAM)
    add_commands(commands)
    args = parser.parse_args(argv)
    if not args.version and not hasattr(args, 'run'):
        parser.print_help()
        parser.exit(2)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong ends in one sentence unless ``--debug``.

    Args:
        argv (Sequence[str], optional): Words. Defaults to None, those of the process.
    """
    args = parse_args(argv)
    if args.version:
        from mergevq_mm.version import __version__

        print(__version__)
        return
    if not args.debug:  # what diffusers and mmengine say of their own future
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', message='.*pkg_resources')
    try:
        from . import commands

        with warnings_on_stderr():
            getattr(commands, args.run)(args)
    except BrokenPipeError:  # such as `mergevq models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except Exception as error:
        if args.debug:
            raise
        sys.exit(f'error: {sentence(error)}')


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Write what the package warns of as lines that begin with 'warning: '."""
    logger, handler = logging.getLogger('mergevq_mm'), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter('warning: %(message)s'))
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def sentence(error: Exception) -> str:
    """What an error says, in one line.

    Args:
        error (Exception): The error. Of a kind that our own checks do not raise, its
            name is told, too, and how to see more.

    Returns:
        str: Without line breaks.
    """
    text = ' '.join(str(error).split())
    from mergevq_mm.base.tier import MissingExtra

    if isinstance(error, (ValueError, FileNotFoundError, MissingExtra)) and text:
        return text
    kind = type(error).__name__
    return f'{kind}: {text or "nothing more is known"} (--debug shows where).'
