"""The encoders of the paper and its authors' code by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HYBRID = {'stem': 'hybrid', 'num_res_blocks': 4, 'num_layers': 12}
_STRIDE_8 = {**_HYBRID, 'channel_mult': (1, 2, 4, 8)}
_STRIDE_16 = {**_HYBRID, 'channel_mult': (1, 1, 2, 4, 8)}
ARCHITECTURES = {
    'g-d32': {
        **_HYBRID,
        'channel_mult': (2, 4, 8, 12),
        'base_channels': 32,
        'num_heads': 8,
    },
    'g-d64': {**_STRIDE_8, 'base_channels': 64, 'num_heads': 8},
    'g+r-d32': {
        **_HYBRID,
        'channel_mult': (2, 2, 4, 8, 12),
        'base_channels': 32,
        'num_heads': 8,
    },
    'g+r-d64': {**_STRIDE_16, 'base_channels': 64, 'num_heads': 8},
    'g+r-d96': {**_STRIDE_16, 'base_channels': 96, 'num_heads': 12},
    'r-base': {
        'stem': 'patch',
        'embed_dims': 768,
        'patch_size': 16,
        'num_layers': 12,
        'num_heads': 12,
    },
}


def read_architecture(arch: str | dict[str, Any]) -> dict[str, Any]:
    """Look a named architecture up, or check the keys of one given as a dict."""
    if isinstance(arch, str):
        one_of('arch', arch, ARCHITECTURES)
        return ARCHITECTURES[arch]
    one_of("arch's stem", arch.get('stem'), ('hybrid', 'patch'))
    needed, optional = {'stem', 'num_layers', 'num_heads'}, {'norm_groups'}
    if arch['stem'] == 'hybrid':
        needed |= {'base_channels', 'channel_mult'}
        optional |= {'num_res_blocks'}
    else:
        needed |= {'embed_dims', 'patch_size'}
    unknown = set(arch) - needed - optional
    if needed - set(arch) or unknown:
        raise ValueError(
            f'arch={dict(arch)} needs the keys {sorted(needed)}; missing '
            f'{sorted(needed - set(arch))}, unknown {sorted(unknown)}.'
        )
    return dict(arch)


def one_of(name: str, value: object, known: Sequence[Any] | dict[str, Any]) -> None:
    """Refuse a value that is not among the known ones."""
    if value not in known:
        raise ValueError(
            f'{name}={value!r} is not known; choose one of '
            f'{", ".join(map(str, known))}.'
        )


def read_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Indices of blocks, counted from the front; refuse those of no block."""
    if isinstance(out_indices, int):
        out_indices = [out_indices]
    for index in out_indices:
        if not -num_layers <= index < num_layers:
            raise ValueError(
                f'out_indices={list(out_indices)} names block {index}; there are '
                f'{num_layers} blocks, 0 to {num_layers - 1}.'
            )
    return tuple(index % num_layers for index in out_indices)


def check_stages(out_stages: Sequence[int], number: int) -> None:
    """Refuse stages that a stem of so many does not have."""
    for index in out_stages:
        if not 0 <= index < number:
            raise ValueError(
                f'out_stages={list(out_stages)} names stage {index}; the stem has '
                f'{number}, 0 to {number - 1}.'
            )


def check_frozen(frozen_stages: int, num_layers: int) -> None:
    """Refuse to freeze blocks that are not there."""
    if not -1 <= frozen_stages <= num_layers:
        raise ValueError(
            f'frozen_stages={frozen_stages} lies outside [-1, {num_layers}]; '
            '-1 freezes nothing, 0 the stem, n the stem and the first n blocks.'
        )
