"""Keys and values of all layers, in slots."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def activation_dtype(like: Tensor) -> torch.dtype:
    """Type of keys and values: that of the activations, or of autocast."""
    kind = like.device.type
    if kind != 'meta' and torch.is_autocast_enabled(kind):  # meta knows no autocast
        return torch.get_autocast_dtype(kind)
    return like.dtype


class KVStore:
    """Room for keys and values of a batch of sequences.

    Which slot holds what is the business of the caches. Each layer has memory of its
    own, so that growing copies one layer at a time.

    Args:
        layers (int): Layers of the transformer.
        batch (int): Sequences, B.
        heads (int): Heads, H.
        slots (int): Slots of a sequence.
        head_dim (int): Channels of a head, c.
        like (Tensor): Of the device and the type of the activations; under autocast
            the keys and values have autocast's type.

    Attributes:
        shape (tuple[int, ...]): Of a layer's keys and values, 2×B×H×slots×c.
        dtype (torch.dtype): Their type.
        rooms (list[Tensor]): Keys and values of each layer, from the first use on.
        rows (Tensor): Numbers of the sequences, B×1 int64.
        peak_bytes (int): The most bytes held at once: while the store grows, the keys
            and values of one layer are there twice.
        version (int): Counts the rooms; what was captured with another one writes into
            memory that is no longer looked at.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        slots: int,
        head_dim: int,
        like: Tensor,
    ) -> None:
        self.shape: tuple[int, ...] = (2, batch, heads, slots, head_dim)
        self.dtype = activation_dtype(like)
        self.layers = layers
        self.rooms: list[Tensor] = []
        self.rows = torch.arange(batch, device=like.device)[:, None]
        self.peak_bytes, self.version = self.nbytes, 0

    @property
    def slots(self) -> int:
        """int: Slots of a sequence."""
        return self.shape[3]

    @property
    def nbytes(self) -> int:
        """int: Bytes of keys and values of all sequences."""
        return self.layers * math.prod(self.shape) * self.dtype.itemsize

    def open(self) -> None:
        """Take the memory, if that has not been done yet."""
        if not self.rooms:
            self.rooms += [
                torch.zeros(self.shape, dtype=self.dtype, device=self.rows.device)
                for _ in range(self.layers)
            ]

    def clear(self) -> None:
        """Be as new, with the slots that are there."""
        for room in self.rooms:
            room.zero_()
        self.peak_bytes = self.nbytes

    def grow(self, slots: int) -> None:
        """Add slots; those that exist keep their numbers and contents."""
        self.open()
        twice = self.rooms[0].nbytes
        self.shape = (*self.shape[:3], self.slots + slots, self.shape[4])
        for layer, room in enumerate(self.rooms):
            self.rooms[layer] = F.pad(room, (0, 0, 0, slots))
        self.peak_bytes = max(self.peak_bytes, self.nbytes + twice)
        self.version += 1


class SlotMemory:
    """A transformer's memory for one call: writes to given slots, reads the first ones.

    Args:
        store (KVStore): Where keys and values stand.
        slots (int | Tensor): The first of n consecutive slots, the same for the batch,
            or the slot of each new token, B×n int64.
        read (int): Number of slots to return, from the first one.
    """

    def __init__(self, store: KVStore, slots: int | Tensor, read: int) -> None:
        store.open()
        self.rooms, self.rows = store.rooms, store.rows
        self.slots, self.read = slots, read

    def __call__(self, layer: int, new: Tensor) -> Tensor:
        """Write keys and values 2×B×H×n×c; return those of the first slots."""
        room = self.rooms[layer]
        new = new.to(room.dtype)
        if isinstance(self.slots, int):
            room[..., self.slots : self.slots + new.shape[3], :] = new
        else:
            # A compiler writes in place what is put by index, but copies the whole
            # room where it is scattered.
            room[:, self.rows, :, self.slots] = new.permute(1, 3, 0, 2, 4)
        return room[..., : self.read, :]
