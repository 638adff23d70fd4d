"""Data sets and their transforms."""

from .image_folder import ImageFolder
from .keep_batches import SameKeepBatchSampler
from .merge_codes import MergeVQCodes
from .packed_backends import PackedLmdbBackend, TarBackend
from .seeded_views import SeededViews
from .transforms import LoadImage, UnreadableImageError

__all__ = [
    'ImageFolder',
    'LoadImage',
    'MergeVQCodes',
    'PackedLmdbBackend',
    'SameKeepBatchSampler',
    'SeededViews',
    'TarBackend',
    'UnreadableImageError',
]
