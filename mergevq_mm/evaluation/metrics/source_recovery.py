"""How well the group map is predicted from the codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergevq_mm.registry import METRICS

from ..functional import kept_counts, stacked
from .base import MeanOverImages


@METRICS.register_module()
class SourceRecoveryMetric(MeanOverImages):
    """Share of raster positions whose token the learned recovery predicts, at every K.

    Names: ``source/K16/acc``, and ``source/K16/acc_codes``, where a token with the same
    code as the true one counts as right. Predictions without a predicted map (a neck
    that is not learned) give no numbers.

    Args:
        **kwargs: ``keeps``, ``collect_device``, ``prefix``, ``collect_dir``.
    """

    default_prefix = 'source'
    better = {'acc': 'greater'}

    def measure(self, samples: Sequence[Mapping]) -> dict[str, Sequence[float]]:
        """Measure the accuracies of B predictions, see the base class."""
        # Here, for it imports all models: who measures has one anyway.
        from mergevq_mm.models.utils.group_map import source_accuracy

        measured: dict[str, list[float]] = {}
        for keep in kept_counts(samples, self.keeps):
            predicted = stacked(samples, keep, 'predicted_group')
            if predicted is None:
                continue
            group = stacked(samples, keep, 'group')
            index = stacked(samples, keep, 'index')
            accuracy = source_accuracy(predicted, group)  # B
            measured[f'K{keep}/acc'] = accuracy.tolist()
            accuracy = source_accuracy(predicted, group, index)
            measured[f'K{keep}/acc_codes'] = accuracy.tolist()
        return measured
