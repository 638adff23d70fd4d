"""Keys and values of all layers, in slots."""

from __future__ import annotations

import torch
from torch import Tensor


class KVStore:
    """Room for keys and values of a batch of sequences.

    Which slot holds what is the business of the caches.

    Args:
        layers (int): Layers of the transformer.
        batch (int): Sequences, B.
        heads (int): Heads, H.
        slots (int): Slots of a sequence.
        head_dim (int): Channels of a head, c.
        like (Tensor): Of the device and the type of the activations; under autocast
            the keys and values have autocast's type.

    Attributes:
        peak_bytes (int): The most bytes held at once: to grow, the store holds its old
            and its new room together for a moment.
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
        shape = (2, layers, batch, heads, slots, head_dim)
        self._room = torch.zeros(shape, dtype=dtype, device=like.device)
        self.peak_bytes, self.version = self.nbytes, 0

    @property
    def keys(self) -> Tensor:
        """Tensor: layers×B×H×slots×c."""
        return self._room[0]

    @property
    def values(self) -> Tensor:
        """Tensor: layers×B×H×slots×c."""
        return self._room[1]

    @property
    def slots(self) -> int:
        """int: Slots of a sequence."""
        return self._room.shape[-2]

    @property
    def nbytes(self) -> int:
        """int: Bytes of keys and values of all sequences."""
        return self._room.numel() * self._room.element_size()

    def grow(self, slots: int) -> None:
        """Add slots; those that exist keep their numbers and contents."""
        old, shape = self._room, list(self._room.shape)
        shape[-2] += slots
        self._room = old.new_zeros(shape)
        self._room[..., : old.shape[-2], :] = old
        held = old.numel() * old.element_size() + self.nbytes
        self.peak_bytes = max(self.peak_bytes, held)
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
