"""Keys and values of all layers, in slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
        keys (list[Tensor]): Of each layer, B×H×slots×c.
        values (list[Tensor]): The same.
        peak_bytes (int): The most bytes held at once: while the store grows, the keys
            or values of one layer are there twice.
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
        kind, dtype = like.device.type, like.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        shape = (batch, heads, slots, head_dim)
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=like.device) for _ in range(layers)]
            for _ in range(2)
        )
        self.peak_bytes, self.version = self.nbytes, 0

    @property
    def slots(self) -> int:
        """int: Slots of a sequence."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """int: Bytes of keys and values of all sequences."""
        return sum(room.nbytes for room in (*self.keys, *self.values))

    def grow(self, slots: int) -> None:
        """Add slots; those that exist keep their numbers and contents."""
        twice = self.keys[0].nbytes
        for rooms in (self.keys, self.values):
            for layer, room in enumerate(rooms):
                rooms[layer] = F.pad(room, (0, 0, 0, slots))
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
        self.keys, self.values = store.keys, store.values
        self.slots, self.read = slots, read

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values B×H×n×c; return those of the first ``read`` slots."""
        read = []
        for room, new in ((self.keys[layer], key), (self.values[layer], value)):
            new = new.to(room.dtype)
            if isinstance(self.slots, int):
                room[:, :, self.slots : self.slots + new.shape[2]] = new
            else:
                where = self.slots[:, None, :, None].expand_as(new)
                room.scatter_(2, where, new)
            read.append(room[:, :, : self.read])
        return read[0], read[1]
