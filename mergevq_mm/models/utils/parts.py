"""What functions that run through several parts of a tokenizer ask of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from .structures import EmbeddedImage, MergedTokens, QuantizedTokens


class Encoder(Protocol):
    """A ``MergeVQEncoder``, or what does the same."""

    num_layers: int
    layers: nn.ModuleList

    def embed(self, x: Tensor) -> EmbeddedImage:
        """Run the stem on images B×3×H×W."""

    def encode_embedded(
        self, embedded: EmbeddedImage, keep: int | float | None = None
    ) -> MergedTokens:
        """Run the blocks down to K tokens."""

    def plan(self, grid: tuple[int, int], keep: int | float | None) -> Sequence[int]:
        """How many tokens each block merges."""


class Parts(Protocol):
    """A tokenizer, or the parts of one: bare, or wrapped for distributed training."""

    @property
    def backbone(self) -> Encoder:
        """Encoder: Makes tokens."""

    @property
    def quantizer(self) -> Callable[..., QuantizedTokens]:
        """Callable: Makes codes of tokens B×K×D; not needed for similarities."""

    @property
    def decoder(self) -> Callable[..., Tensor]:
        """Callable: Makes images of codes B×L×d and a grid; needed likewise."""
