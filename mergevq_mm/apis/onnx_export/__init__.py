"""Trained models as ONNX graphs, for who has neither torch nor this package.

::

    graphs.py   decoding.py   what is exported, as modules and how they are called
    weights.py                weights as float16, bfloat16 or int8
    convert.py                a module to a file      check.py   the file against torch
    export.py                 a folder of graphs      tokenizer.py   use one
"""

from __future__ import annotations

from .export import Exported, export_onnx
from .tokenizer import OnnxTokenizer

__all__ = ['Exported', 'OnnxTokenizer', 'export_onnx']
