"""Usage and entropy of the codebook over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mergevq_mm.registry import METRICS

from ..functional import code_bits, code_statistics, kept_counts, stacked


@METRICS.register_module()
class CodebookMetric(BaseMetric):
    """How much of the codebook the tokens of all images use, at every K.

    Names, all ``codebook/K16/…``: ``usage``, ``distinct``, ``usage_of_possible``,
    ``entropy`` (bits), ``perplexity``, ``bit_entropy`` and ``bit_entropy_min``; what
    they mean stands at :func:`~mergevq_mm.evaluation.functional.code_statistics`. The
    indices are gathered as 4 bytes a token: 50 MB for 50,000 images at K = 256.

    Args:
        bits (int, optional): Number of bits of a code, for predictions that do not say
            it; those of ``MergeVQ`` do. Defaults to None.
        keeps (Sequence[int], optional): Measure only these numbers of kept tokens.
            Defaults to None, all that the predictions have.
        collect_device (str): 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): First part of the names. Defaults to None, 'codebook'.
        collect_dir (str, optional): Folder to gather results in. Defaults to None.

    Raises:
        ValueError: If ``bits`` is not in [1, 30], or (when evaluated) is not the
            model's, or an index has more.
    """

    default_prefix = 'codebook'
    better = dict.fromkeys(
        ('usage', 'distinct', 'entropy', 'perplexity', 'bit_entropy'), 'greater'
    )

    def __init__(
        self,
        bits: int | None = None,
        keeps: Sequence[int] | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if bits is not None and not 1 <= bits <= 30:
            raise ValueError(
                f'bits={bits} of CodebookMetric is not in [1, 30]; give the '
                "quantizer's number of bits."
            )
        self.bits = bits
        self.keeps = None if keeps is None else tuple(keeps)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the code indices of one batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): Predictions of the batch.
        """
        keeps = kept_counts(data_samples, self.keeps)
        index = {
            keep: stacked(data_samples, keep, 'index').cpu().numpy().astype(np.int32)
            for keep in keeps
        }
        for i, sample in enumerate(data_samples):
            codes = {keep: index[keep][i] for keep in keeps}
            self.results.append((code_bits(sample, self.bits), codes))

    def compute_metrics(
        self, results: list[tuple[int, dict[int, np.ndarray]]]
    ) -> dict[str, float]:
        """Make the histogram of all codes and describe it.

        Args:
            results (list[tuple[int, dict[int, np.ndarray]]]): For each image the bits
                of a code, and K to its K indices.

        Returns:
            dict[str, float]: Name to value.
        """
        metrics: dict[str, float] = {}
        if not results:
            return metrics
        bits, codes = results[0]
        for keep in codes:
            index = np.concatenate([codes[keep] for _, codes in results])
            for name, value in code_statistics(index, bits).items():
                metrics[f'K{keep}/{name}'] = value
        return metrics
