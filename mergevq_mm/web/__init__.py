"""A page to play with, on one machine and offline; needs the extra ``web``."""

from .page import build_page
from .serving import serve

__all__ = ['build_page', 'serve']
