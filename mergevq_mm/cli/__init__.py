"""The command line: ``python -m mergevq_mm``, or ``mergevq`` once installed."""

from .main import main

__all__ = ['main']
