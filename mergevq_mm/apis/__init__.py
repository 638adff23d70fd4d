"""Models by name, by folder and by repository; and inferencers, which use them."""

from .generation_inferencer import GenerationInferencer
from .hub import list_models, model_info
from .inferencers import (
    DecodingInferencer,
    EncodingInferencer,
    FeatureInferencer,
    ReconstructionInferencer,
)
from .model import get_model, init_model
from .pretrained import export_checkpoint, from_pretrained, push_to_hub, save_pretrained

__all__ = [
    'DecodingInferencer',
    'EncodingInferencer',
    'FeatureInferencer',
    'GenerationInferencer',
    'ReconstructionInferencer',
    'export_checkpoint',
    'from_pretrained',
    'get_model',
    'init_model',
    'list_models',
    'model_info',
    'push_to_hub',
    'save_pretrained',
]
