"""Sizes of the generators, as LlamaGen names them."""

from __future__ import annotations

from typing import Any

ARCHITECTURES: dict[str, dict[str, int]] = {
    'B': {'embed_dims': 768, 'num_layers': 12, 'num_heads': 12},
    'L': {'embed_dims': 1024, 'num_layers': 24, 'num_heads': 16},
    'XL': {'embed_dims': 1280, 'num_layers': 36, 'num_heads': 20},
}


def resolve_architecture(arch: str | dict[str, Any]) -> dict[str, Any]:
    """Widths and depths by name, or as they are given.

    Args:
        arch (str | dict): A name in ``ARCHITECTURES``, in either case, or a dict with
            ``embed_dims``, ``num_layers`` and ``num_heads`` and, where wanted,
            ``ffn_multiple`` and ``head_layers``.

    Returns:
        dict: The arguments of the transformer.

    Raises:
        ValueError: If the name is not known or a key is missing.
    """
    if isinstance(arch, str):
        if arch.upper() not in ARCHITECTURES:
            raise ValueError(
                f"arch='{arch}' is not known; choose one of "
                f'{", ".join(ARCHITECTURES)} or give a dict.'
            )
        return dict(ARCHITECTURES[arch.upper()])
    missing = {'embed_dims', 'num_layers', 'num_heads'} - set(arch)
    if missing:
        raise ValueError(
            f'arch={dict(arch)} lacks {", ".join(sorted(missing))}; give embed_dims, '
            'num_layers and num_heads.'
        )
    return dict(arch)
