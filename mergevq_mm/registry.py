"""Registries of ``mergevq_mm``: children of mmengine's roots, where it is installed.

Only children of the roots are found from every OpenMMLab scope, so that an mmdet,
mmpretrain or mmagic config can name ``mergevq_mm.MergeVQEncoder``. ``locations``
lists the rooms that a first look-up imports; ``import mergevq_mm`` alone imports
none of them and stays fast.
"""

from .base.registry import Registry, roots

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
RUNNERS = _child(roots.RUNNERS, 'engine')
LOOPS = _child(roots.LOOPS, 'engine')
HOOKS = _child(roots.HOOKS, 'engine')
OPTIMIZERS = _child(roots.OPTIMIZERS, 'engine')
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(roots.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
PARAM_SCHEDULERS = _child(roots.PARAM_SCHEDULERS, 'engine')
LOG_PROCESSORS = _child(roots.LOG_PROCESSORS, 'engine')

# Data
DATASETS = _child(roots.DATASETS, 'datasets')
DATA_SAMPLERS = _child(roots.DATA_SAMPLERS, 'datasets')
TRANSFORMS = _child(roots.TRANSFORMS, 'datasets')
FUNCTIONS = _child(roots.FUNCTIONS, 'datasets')  # collate and worker functions

# Networks
MODELS = _child(roots.MODELS, 'models')
MODEL_WRAPPERS = _child(roots.MODEL_WRAPPERS, 'models')
WEIGHT_INITIALIZERS = _child(roots.WEIGHT_INITIALIZERS, 'utils.weight_selection')
TASK_UTILS = _child(roots.TASK_UTILS, 'models')

# Numbers and pictures
METRICS = _child(roots.METRICS, 'evaluation')
EVALUATOR = _child(roots.EVALUATOR, 'evaluation')
VISUALIZERS = _child(roots.VISUALIZERS, 'visualization')
VISBACKENDS = _child(roots.VISBACKENDS, 'visualization')

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
