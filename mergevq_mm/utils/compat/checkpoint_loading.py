"""Stock mmengine's checkpoints under torch's ``weights_only=True``."""

from __future__ import annotations

import sys


def install_checkpoint_loaders() -> None:
    """Let stock mmengine load and resume through :mod:`..checkpoint_file`.

    torch 2.6 and later refuse mmengine's own checkpoints by default, so that
    resuming, ``load_from``, ``Pretrained`` and ``test.py`` fail with a traceback;
    earlier ones run whatever code a file holds. With our loader a checkpoint of
    plain types loads everywhere, another one stops with one sentence, and
    ``resume=True`` passes over a damaged newest checkpoint.
    """
    from .. import checkpoint_file

    loader = sys.modules['mmengine.runner.checkpoint'].CheckpointLoader
    loader.register_scheme('', checkpoint_file.load_from_local, force=True)
    loader.register_scheme(
        ('http://', 'https://'), checkpoint_file.load_from_http, force=True
    )
    for name in ('', '.checkpoint', '.runner'):
        module = sys.modules[f'mmengine.runner{name}']
        module.find_latest_checkpoint = checkpoint_file.find_latest_checkpoint
