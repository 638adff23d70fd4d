"""``init_cfg=dict(type='Pretrained', ...)`` that cannot fail unnoticed."""

from __future__ import annotations

from ..base.module import BaseModule
from .checkpoint import load_pretrained


def init_pretrained(module: BaseModule) -> bool:
    """Load the checkpoint that a module's ``init_cfg`` names.

    mmengine's own initializer warns and goes on from random weights where the
    checkpoint holds nothing for the module; here that is an error.

    Args:
        module (BaseModule): Its ``init_cfg`` may be of type 'Pretrained'.

    Returns:
        bool: Whether there was a checkpoint to load.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be read or does not fit the module.
    """
    cfg = module.init_cfg
    if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
        return False
    load_pretrained(module, cfg['checkpoint'], prefix=cfg.get('prefix') or '')
    module.is_init = True
    return True
