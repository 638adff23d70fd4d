"""Measures for the installed stack, put in place once by ``import mergevq_mm``.

OpenMMLab's packages are older than today's torch, numpy, transformers, diffusers and
setuptools. These small measures make them run together. Each waits for the import that
it concerns, looks whether it is needed there, and does nothing where it is not.

====================== ========================== ====================================
file                   waits for                  needed where
====================== ========================== ====================================
``torchvision_ops``    torchvision                it was built for another torch
``mmcv_ops``           mmcv                       it is mmcv-lite
``mmcv_hue``           mmcv                       numpy is 2 or newer
``numpy_names``        mmagic, mmpretrain         numpy is 2 or newer
``lending``            three modules of mmagic    diffusers dropped a name, or
                                                  albumentations is missing
``scipy_sqrtm``        mmagic's FID               scipy is 1.18 or newer
``missing``            an import that fails       setuptools is 82 or newer; a part
                                                  of OpenMMLab is missing
``multimodal``         mmpretrain                 transformers is 4.52 or newer
``checkpoint_loading`` mmengine.runner            always (``weights_only=True``)
``gloo``               mmengine.dist              there is no GPU
====================== ========================== ====================================

``watching`` is how they wait; ``startup`` imports this package in time where it was
installed, whatever a script imports first.
"""

from __future__ import annotations

from .checkpoint_loading import install_checkpoint_loaders
from .gloo import init_dist_without_cuda
from .lending import lend
from .missing import be_asked_last, require_for_mmagic
from .mmcv_hue import wrap_negative_hue
from .mmcv_ops import stub_mmcv_ext
from .multimodal import leave_out_multimodal
from .numpy_names import restore_numpy_names
from .scipy_sqrtm import keep_disp_of_sqrtm
from .torchvision_ops import declare_torchvision_ops
from .watching import after_import, before_import

__all__ = ['apply']

_applied = False


def apply() -> None:
    """Put all measures in place, once a process."""
    global _applied
    if _applied:
        return
    _applied = True
    be_asked_last()
    before_import('torchvision', declare_torchvision_ops)
    before_import('mmagic', require_for_mmagic)
    before_import('mmagic', restore_numpy_names)
    before_import('mmpretrain', restore_numpy_names)
    after_import('mmcv', stub_mmcv_ext)
    after_import('mmcv.image.photometric', wrap_negative_hue)
    lend('albumentations', 'mmagic.datasets.transforms.albu_function')
    lend(
        'diffusers.pipelines.paint_by_example',
        'mmagic.models.editors.animatediff.animatediff_utils',
    )
    lend(
        'diffusers.models.unet_2d_condition',
        'mmagic.models.editors.vico.vico_utils',
    )
    after_import('mmagic.evaluation.metrics.fid', keep_disp_of_sqrtm)
    after_import('mmpretrain.utils.dependency', leave_out_multimodal)
    after_import('mmengine.runner.runner', install_checkpoint_loaders)
    after_import('mmengine.dist.utils', init_dist_without_cuda)
