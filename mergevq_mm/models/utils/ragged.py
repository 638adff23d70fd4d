"""Images of several K in one batch: a dense part for each K, in order when wanted."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Rows = Sequence[int]


class Ragged:
    """What images have that have not the same K.

    Tensors of different K do not fit into one. Here the images of one K have their own,
    with the images first, as a batch of them alone would have. ``ragged[i]`` is what
    image i alone would have; iterating goes through the images in their order.

    Args:
        parts (Mapping[int, tuple[Sequence[int], Any]]): For each K the places of its
            images in the batch, and their value: a tensor n×…, or a tuple with such
            tensors among its fields.

    Examples:
        >>> merged, quantized = model.encode(images, Budget(mean=12))
        >>> merged.keeps
        [8, 16, 12]
        >>> merged.parts[16][1].tokens.shape, merged[1].tokens.shape
        (torch.Size([1, 16, 32]), torch.Size([1, 16, 32]))
    """

    def __init__(self, parts: Mapping[int, tuple[Rows, Any]]) -> None:
        self.parts = dict(parts)
        self._places = {
            row: (keep, place)
            for keep, (rows, _) in self.parts.items()
            for place, row in enumerate(rows)
        }

    @property
    def keeps(self) -> list[int]:
        """list[int]: K of each image."""
        return [self._places[i][0] for i in range(len(self))]

    def __len__(self) -> int:
        """Count the images."""
        return len(self._places)

    def __getitem__(self, i: int) -> Any:
        """What image i has, a batch of one."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(
                f'image {i} of a batch of {len(self)}; give 0 to {len(self) - 1}.'
            )
        keep, place = self._places[i % len(self)]
        return take_rows_of(self.parts[keep][1], [place])

    def __iter__(self) -> Iterator[Any]:
        """Go through the images."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f'Ragged({self.keeps})'

    def map(self, work: Callable[..., Any], *others: Any, **named: Any) -> Ragged:
        """Do something with the images of each K.

        Args:
            work (Callable): From the value of a part, and those of the others, to one.
            *others (Any): Of the same images: ragged of the same K, or a tensor B×….
                What is neither is handed on as it is.
            **named (Any): The same, by name.

        Returns:
            Ragged: Of what was made.

        Raises:
            ValueError: If the others are of other images or K, or of one for all.
        """
        for other in (*others, *named.values()):
            self._check(other)
        made = {}
        for keep, (rows, value) in self.parts.items():
            own = (_part(other, keep, rows) for other in others)
            told = {name: _part(other, keep, rows) for name, other in named.items()}
            made[keep] = (rows, work(value, *own, **told))
        return Ragged(made)

    def _check(self, other: Any) -> None:
        """Refuse what is of other images."""
        if isinstance(other, Ragged) and other._places != self._places:
            raise ValueError(
                f'{other} does not go with {self}; give what has the same images of '
                'the same K.'
            )
        if isinstance(other, Tensor) and other.shape[:1] != (len(self),):
            raise ValueError(
                f'a tensor of shape {tuple(other.shape)} does not go with the '
                f'{len(self)} images of {self}; give a row for each.'
            )
        if hasattr(other, '_fields'):  # one of our structures
            raise ValueError(
                f'{type(other).__name__} of one K do not go with {self}, whose images '
                'have one each; give what was made of these.'
            )

    def join(self) -> Tensor:
        """Tensors that no longer depend on K as one, in the order of the images.

        Returns:
            Tensor: B×….

        Raises:
            ValueError: If they do depend on it.
        """
        parts = [value for _, value in self.parts.values()]
        shapes = {getattr(value, 'shape', ())[1:] for value in parts}
        if len(shapes) != 1 or not all(isinstance(value, Tensor) for value in parts):
            found = ', '.join(
                str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__
                for v in parts
            )
            raise ValueError(
                f'parts of {self} are {found}, which do not join to one tensor; map '
                'them to tensors of one shape first, or take them image by image.'
            )
        values = torch.cat(parts)
        order = [row for rows, _ in self.parts.values() for row in rows]
        back = torch.empty(len(order), dtype=torch.int64)
        back[order] = torch.arange(len(order))
        return values[back.to(values.device)]


def _part(value: Any, keep: int, rows: Rows) -> Any:
    """What the images of one K have of a value."""
    if isinstance(value, Ragged):
        return value.parts[keep][1]
    return take_rows_of(value, rows)


def rows_by_keep(keeps: Sequence[int]) -> dict[int, list[int]]:
    """Which images have each K, the smallest first.

    Args:
        keeps (Sequence[int]): K of each image.

    Returns:
        dict[int, list[int]]: K to places in the batch, ascending.
    """
    found: dict[int, list[int]] = {keep: [] for keep in sorted(set(keeps))}
    for row, keep in enumerate(keeps):
        found[keep].append(row)
    return found


def take_rows_of(value: Any, rows: Rows) -> Any:
    """Some images of a tensor B×…, or of each such tensor in a tuple of our structures.

    Args:
        value (Tensor | NamedTuple): What a batch has. Fields that are no tensors, such
            as the grid or losses, are of all images.
        rows (Sequence[int]): Places in the batch.

    Returns:
        Tensor | NamedTuple: The same of these images.
    """
    if isinstance(value, Tensor):
        return value[list(rows)]
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        fields = (take_rows_of(field, rows) for field in value)
        return type(value)(*fields)
    return value
