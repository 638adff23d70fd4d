"""Our tokenizers in transformers, without any code of their folders.

``import mergevq_mm.huggingface`` makes ``AutoModel`` and ``AutoImageProcessor`` know
the folders of :func:`mergevq_mm.save_pretrained`; ``trust_remote_code`` is not needed
then. Where this package is not installed, a folder brings what it needs
(:mod:`mergevq_mm.utils.carried`).

================== =====================================================================
``modeling_mergevq`` the classes; a folder carries a copy
``mergevq_sources``  how a folder carries files of this package, for who has it not
================== =====================================================================
"""

from __future__ import annotations

from ..base.tier import MissingExtra, exists

if not exists('transformers'):
    raise MissingExtra(
        'mergevq_mm.huggingface needs transformers, which is not installed: '
        'pip install transformers.',
        name='transformers',
    )

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .modeling_mergevq import (
    MergeVQConfig,
    MergeVQImageProcessor,
    MergeVQModel,
    MergeVQOutput,
)

__all__ = ['MergeVQConfig', 'MergeVQImageProcessor', 'MergeVQModel', 'MergeVQOutput']

AutoConfig.register('mergevq', MergeVQConfig, exist_ok=True)
AutoModel.register(MergeVQConfig, MergeVQModel, exist_ok=True)
AutoImageProcessor.register(
    MergeVQConfig, slow_image_processor_class=MergeVQImageProcessor, exist_ok=True
)
