"""Device, ranks, log and iteration: mmengine's, or those of the small tier."""

from typing import TYPE_CHECKING

from .tier import has_openmmlab

if not TYPE_CHECKING and has_openmmlab():
    from mmengine.device import get_device
    from mmengine.dist import (
        all_reduce,
        barrier,
        get_local_rank,
        get_rank,
        get_world_size,
        is_distributed,
        is_main_process,
    )
    from mmengine.logging import MessageHub, MMLogger, print_log

    def current_iteration() -> int:
        """Number of the current training iteration; 0 outside a run."""
        return MessageHub.get_current_instance().get_info('iter', 0)

    def is_in_run() -> bool:
        """Whether a run has made a logger; mmengine makes one of its name for none."""
        return bool(set(MMLogger._instance_dict) - {'mmengine'})
else:
    from .small.process import (
        all_reduce,
        barrier,
        current_iteration,
        get_device,
        get_local_rank,
        get_rank,
        get_world_size,
        is_distributed,
        is_in_run,
        is_main_process,
        print_log,
    )

__all__ = [
    'all_reduce',
    'barrier',
    'current_iteration',
    'get_device',
    'get_local_rank',
    'get_rank',
    'get_world_size',
    'is_distributed',
    'is_in_run',
    'is_main_process',
    'print_log',
]
