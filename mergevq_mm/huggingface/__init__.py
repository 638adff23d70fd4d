"""Our tokenizers in transformers, without any code of their folders.

``import mergevq_mm.huggingface`` makes ``AutoModel`` and ``AutoImageProcessor`` know
the folders of :func:`mergevq_mm.save_pretrained`; ``trust_remote_code`` is not needed
then. Where this package is not installed, a folder brings what it needs
(:mod:`mergevq_mm.utils.carried`).

==================== ===================================================================
``modeling_mergevq`` the classes; a folder carries a copy
``mergevq_sources``  how a folder carries files of this package, for who has it not
==================== ===================================================================
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from ..base.tier import MissingExtra, exists
from ..utils.carried import transformers_files
from ..utils.export import write_text

if not exists('transformers'):
    raise MissingExtra(
        'mergevq_mm.huggingface needs transformers, which is not installed: '
        'pip install transformers.',
        name='transformers',
    )

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from . import modeling_mergevq
from .modeling_mergevq import MergeVQConfig, MergeVQImageProcessor, MergeVQOutput

__all__ = ['MergeVQConfig', 'MergeVQImageProcessor', 'MergeVQModel', 'MergeVQOutput']


class MergeVQModel(modeling_mergevq.MergeVQModel):
    """The class of the folders, of this package: it saves their code, too."""

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], **kwargs: Any
    ) -> None:
        """Write a folder as transformers does, and what loads it elsewhere.

        Args:
            save_directory (str | PathLike): Where.
            **kwargs: Of transformers.
        """
        super().save_pretrained(save_directory, **kwargs)
        metadata = getattr(self.config, 'metadata', None) or {}
        files = transformers_files(self.config.model or {}, metadata)
        for name, text in files.items():
            write_text(Path(save_directory) / name, text)


def register() -> None:
    """Make the Auto classes of transformers know ours; done by the import."""
    AutoConfig.register('mergevq', MergeVQConfig, exist_ok=True)
    AutoModel.register(MergeVQConfig, MergeVQModel, exist_ok=True)
    classes: dict[str, Any] = {'slow_image_processor_class': MergeVQImageProcessor}
    new = 'image_processor_classes'  # since transformers 5
    if new in inspect.signature(AutoImageProcessor.register).parameters:
        both = {name: MergeVQImageProcessor for name in ('pil', 'torchvision')}
        classes = {new: both}
    AutoImageProcessor.register(MergeVQConfig, exist_ok=True, **classes)


register()
