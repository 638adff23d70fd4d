"""How many tokens an iteration keeps: a pure function of seed and iteration.

Differences: the authors' code sweeps the distribution in order once every hundred
batches; here K is drawn at random, the same on all ranks and after a resumed run.
Paper: Fig. 5 and its caption; the constants of the distributions are the authors'.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

FAMILIES = ('gaussian', 'exponential', 'uniform')


class KeepSampler:
    """Distribution of the number K of kept tokens during training.

    Candidates are consecutive squares. 'gaussian' starts one square below the target,
    with weights exp(-(k-1)^2 / (2 * 0.5^2)) + 0.05; 'exponential' starts at the target,
    with weights 2 exp(-2k) + 0.1, k = 0, 1, … (paper Fig. 5).

    Args:
        target (int): The K that the model is made for, a perfect square for the
            families, any number where ``candidates`` is given.
        family (str): 'gaussian', 'exponential' or 'uniform'. Defaults to 'gaussian'.
        number (int): Number of candidates. Defaults to 6.
        candidates (Sequence[int], optional): Instead of squares, these.
        weights (Sequence[float], optional): Instead of the family's, these.
        seed (int): Defaults to 0.

    Raises:
        ValueError: If the family is unknown, the target is no square, a candidate is
            below 1, or the weights do not fit the candidates.
    """

    def __init__(
        self,
        target: int,
        family: str = 'gaussian',
        number: int = 6,
        candidates: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        if family not in FAMILIES:
            raise ValueError(
                f"family='{family}' is not known; choose one of {', '.join(FAMILIES)}."
            )
        if candidates is None:
            candidates = _squares(target, number, start=-(family == 'gaussian'))
        if weights is None:
            weights = _weights(family, len(candidates))
        if min(candidates, default=0) < 1:
            raise ValueError(
                f'candidates={list(candidates)} for keep must be numbers of at least '
                '1; raise the target or give other candidates.'
            )
        if len(weights) != len(candidates) or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(
                f'weights={list(weights)} do not fit {len(candidates)} candidates; '
                'give one weight of at least 0 for each, not all 0.'
            )
        self.target = target
        self.candidates = tuple(int(k) for k in candidates)
        self.probabilities = tuple(w / sum(weights) for w in weights)
        self.seed = seed

    def __call__(self, iteration: int) -> int:
        """Draw K for one training iteration."""
        # A string seeds by its SHA-512, so near iterations are not correlated.
        draw = random.Random(f'{self.seed}/{iteration}')
        return draw.choices(self.candidates, self.probabilities)[0]

    def __repr__(self) -> str:
        drawn = zip(self.candidates, self.probabilities, strict=True)
        return f'KeepSampler({", ".join(f"{k}: {p:.3f}" for k, p in drawn)})'


def _squares(target: int, number: int, start: int) -> list[int]:
    root = math.isqrt(max(target, 0))
    if root * root != target or root + start < 1:
        raise ValueError(
            f'target={target} for keep is not a usable square; give a square (such as '
            '36, 144 or 256) or name the candidates.'
        )
    return [(root + start + k) ** 2 for k in range(number)]


def _weights(family: str, number: int) -> list[float]:
    if family == 'gaussian':
        return [math.exp(-((k - 1) ** 2) / 0.5) + 0.05 for k in range(number)]
    if family == 'exponential':
        return [2 * math.exp(-2 * k) + 0.1 for k in range(number)]
    return [1.0] * number
