"""Use exported graphs: numpy and onnxruntime, nothing else."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...base.tier import require


class OnnxTokenizer:
    """A folder of :func:`export_onnx`: images to codes and source map, and back.

    Args:
        folder (str | PathLike): With ``encoder_*.onnx`` and ``decoder.onnx``.

    Attributes:
        encoders (dict[int, Path]): File of each K.

    Raises:
        FileNotFoundError: If there is no graph in the folder.

    Examples:
        >>> tokenizer = OnnxTokenizer('photos-onnx')
        >>> index, group = tokenizer.encode(images, keep=64)  # B×H×W×3 uint8
        >>> images = tokenizer.decode(index, group)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._sessions: dict[Path, Any] = {}
        self._of: str | None = None
        self.encoders: dict[int, Path] = {}
        for path in sorted(self.folder.glob('encoder_*.onnx')):
            self.encoders[self.facts(path)['keep']] = path
        self.decoder = self.folder / 'decoder.onnx'
        if not self.encoders and not self.decoder.is_file():
            raise FileNotFoundError(
                f'"{self.folder}" has no graph of a tokenizer; give a folder that '
                '`mergevq export-onnx` wrote.'
            )

    def session(self, path: Path) -> Any:
        """A graph in onnxruntime, opened once.

        Args:
            path (Path): The file.

        Returns:
            onnxruntime.InferenceSession: Of the graph.

        Raises:
            FileNotFoundError: If it is not there.
            MissingExtra: If onnxruntime is missing.
            ValueError: If it is of another tokenizer than the other graphs.
        """
        if path not in self._sessions:
            if not path.is_file():
                raise FileNotFoundError(
                    f'"{self.folder}" has no {path.name}; export the model again.'
                )
            require('onnxruntime', 'A graph', 'export')
            runtime = importlib.import_module('onnxruntime')
            session = runtime.InferenceSession(
                str(path), providers=['CPUExecutionProvider']
            )
            self._check_origin(path, read_facts(session))
            self._sessions[path] = session
        return self._sessions[path]

    def facts(self, path: Path) -> dict[str, Any]:
        """What a graph says of itself: K, image size, bits, ….

        Args:
            path (Path): The file.

        Returns:
            dict[str, Any]: By name.
        """
        return read_facts(self.session(path))

    def _check_origin(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._of = self._of or facts.get('tokenizer')
        if facts.get('tokenizer') != self._of:
            raise ValueError(
                f'"{path}" is of another tokenizer than the graphs beside it, whose '
                'codes mean something else; export each model into a folder of its own.'
            )

    def encode(
        self, images: np.ndarray, keep: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes and source map.

        Args:
            images (np.ndarray): B×H×W×3 uint8, RGB, of the size of the graph.
            keep (int, optional): K. Defaults to None, the largest that there is.

        Returns:
            tuple[np.ndarray, np.ndarray]: Codes B×K and map B×L, int64.

        Raises:
            ValueError: If no graph has this K, or the images have another size.
        """
        known = sorted(self.encoders)
        if not known:
            raise ValueError(
                f'"{self.folder}" has no encoder; export a tokenizer, or the folder '
                'tokenizer/ of the generator.'
            )
        wanted = known[-1] if keep is None else keep
        if wanted not in self.encoders:
            raise ValueError(
                f'keep={keep} is not among the K of the graphs in "{self.folder}", '
                f'{", ".join(map(str, known))}; choose one of these, or export it: '
                f'mergevq export-onnx MODEL --keep {keep}.'
            )
        session = self.session(self.encoders[wanted])
        facts = read_facts(session)
        size = (*facts['image_size'], 3)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise ValueError(
                f'images are {images.dtype} of shape {images.shape}, but the graph '
                f'takes B×{"×".join(map(str, size))} uint8; resize them, or export '
                'another --image-size.'
            )
        pixels = (images.astype(np.float32) - facts['mean']) / facts['std']
        image = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
        index, group, _ = session.run(None, {'image': image})
        return index, group

    def decode(self, index: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Images of codes.

        Args:
            index (np.ndarray): B×K int64.
            group (np.ndarray): B×L int64.

        Returns:
            np.ndarray: B×H×W×3 uint8, RGB.
        """
        session = self.session(self.decoder)
        facts = read_facts(session)
        (image,) = session.run(None, {'index': index, 'group': group})
        made = image.transpose(0, 2, 3, 1) * facts['std'] + facts['mean']
        pixels: np.ndarray = made.round().clip(0, 255).astype(np.uint8)
        return pixels


def read_facts(session: Any) -> dict[str, Any]:
    """What the graph of a session says of itself.

    Args:
        session (onnxruntime.InferenceSession): Open.

    Returns:
        dict[str, Any]: By name.
    """
    written = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in written.items()}
