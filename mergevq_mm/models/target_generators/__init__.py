"""Teachers: what the class token is aligned with."""

from .ema_teacher import EMATeacher
from .extract import extract_targets
from .frozen_teacher import FrozenTeacher
from .stored_teacher import StoredTeacher, write_targets

__all__ = [
    'EMATeacher',
    'FrozenTeacher',
    'StoredTeacher',
    'extract_targets',
    'write_targets',
]
