"""Data sets and their transforms."""

from .image_folder import ImageFolder
from .merge_codes import MergeVQCodes
from .transforms import LoadImage, UnreadableImageError

__all__ = ['ImageFolder', 'LoadImage', 'MergeVQCodes', 'UnreadableImageError']
