"""Registries of ``mergevq_mm``: children of mmengine's roots.

Only children of the roots are found from every OpenMMLab scope, so that an mmdet,
mmpretrain or mmagic config can name ``mergevq_mm.MergeVQEncoder``. ``locations``
lists the rooms that a first look-up imports; ``import mergevq_mm`` alone imports
none of them and stays fast.
"""

from mmengine import registry as _root
from mmengine.registry import Registry

_SCOPE = 'mergevq_mm'


def _child(parent: Registry, *rooms: str) -> Registry:
    """Make the child of a root registry.

    Args:
        parent (Registry): A root registry of mmengine.
        *rooms (str): Subpackages whose import registers the modules.

    Returns:
        Registry: The child, in scope ``mergevq_mm``.
    """
    locations = [f'{_SCOPE}.{room}' for room in rooms]
    return Registry(parent.name, parent=parent, scope=_SCOPE, locations=locations)


# Running: loops, hooks, optimizers
RUNNERS = _child(_root.RUNNERS, 'engine')
LOOPS = _child(_root.LOOPS, 'engine')
HOOKS = _child(_root.HOOKS, 'engine')
OPTIMIZERS = _child(_root.OPTIMIZERS, 'engine')
OPTIM_WRAPPERS = _child(_root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(_root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
PARAM_SCHEDULERS = _child(_root.PARAM_SCHEDULERS, 'engine')
LOG_PROCESSORS = _child(_root.LOG_PROCESSORS, 'engine')

# Data
DATASETS = _child(_root.DATASETS, 'datasets')
DATA_SAMPLERS = _child(_root.DATA_SAMPLERS, 'datasets')
TRANSFORMS = _child(_root.TRANSFORMS, 'datasets')
FUNCTIONS = _child(_root.FUNCTIONS, 'datasets')  # collate and worker functions

# Networks
MODELS = _child(_root.MODELS, 'models')
MODEL_WRAPPERS = _child(_root.MODEL_WRAPPERS, 'models')
WEIGHT_INITIALIZERS = _child(_root.WEIGHT_INITIALIZERS, 'utils.weight_selection')
TASK_UTILS = _child(_root.TASK_UTILS, 'models')

# Numbers and pictures
METRICS = _child(_root.METRICS, 'evaluation')
EVALUATOR = _child(_root.EVALUATOR, 'evaluation')
VISUALIZERS = _child(_root.VISUALIZERS, 'visualization')
VISBACKENDS = _child(_root.VISBACKENDS, 'visualization')

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'EVALUATOR',
    'FUNCTIONS',
    'HOOKS',
    'LOG_PROCESSORS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'RUNNERS',
    'TASK_UTILS',
    'TRANSFORMS',
    'VISBACKENDS',
    'VISUALIZERS',
    'WEIGHT_INITIALIZERS',
]
