"""Agreement of a predicted group map with the true one (spec section 7)."""

from __future__ import annotations

from torch import Tensor


def source_accuracy(
    predicted: Tensor, group: Tensor, index: Tensor
) -> dict[str, float]:
    """Shares of raster positions that the predicted map assigns rightly.

    Two tokens with one code cannot be told apart and decode to the same image, so the
    second number counts a position as right if its predicted token has the right code.

    Args:
        predicted (Tensor): Predicted token of each position, L int64.
        group (Tensor): True token of each position, L int64.
        index (Tensor): Code index of each token, K int64.

    Returns:
        dict[str, float]: ``acc`` and ``acc_codes`` ("up to identical codes"), both in
        [0, 1], ``acc_codes`` at least ``acc``.

    Raises:
        ValueError: If the two maps are not equally long.
    """
    if predicted.shape != group.shape:
        raise ValueError(
            f'predicted {tuple(predicted.shape)} and group {tuple(group.shape)} differ '
            'in length; give two maps of the same raster.'
        )
    return {
        'acc': (predicted == group).double().mean().item(),
        'acc_codes': (index[predicted] == index[group]).double().mean().item(),
    }
