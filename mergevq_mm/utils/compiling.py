"""torch.compile's limit of recompilations, which torch has renamed."""

from __future__ import annotations

import torch


def recompile_limit() -> str:
    """Name of the limit in ``torch._dynamo.config``."""
    return _known(torch._dynamo.config, 'recompile_limit', 'cache_size_limit')


def limit_hit() -> type[Exception]:
    """What is raised where one graph was asked for and the limit is reached."""
    exc = torch._dynamo.exc
    name = _known(exc, 'FailOnRecompileLimitHit', 'FailOnCacheLimitHit')
    return getattr(exc, name)


def _known(module: object, *names: str) -> str:
    return next(name for name in names if hasattr(module, name))
