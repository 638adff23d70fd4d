"""What runs a training: hooks, and an optimizer wrapper for bfloat16."""

from .bf16_optim_wrapper import Bf16OptimWrapper
from .hooks import *  # noqa: F403
from .hooks import __all__ as _hooks

__all__ = [*_hooks, 'Bf16OptimWrapper']
