"""Which way a metric is better: larger or smaller."""

from __future__ import annotations

from mergevq_mm.registry import METRICS

# Of mmagic's metrics; mmpretrain's are known to mmengine.
_MMAGIC = {'fid': 'less', 'is': 'greater', 'recall': 'greater'}


def better_rule(key: str) -> str | None:
    """The rule by which a metric's best value is found.

    Metrics say it themselves: ``better`` of the class maps the beginning of a name to
    'greater' or 'less'. The name is what follows the last slash of the key.

    Args:
        key (str): As it is logged, such as 'recon/K144/psnr' or 'FID-5k/fid'.

    Returns:
        str | None: 'greater', 'less', or None where nobody says it.
    """
    rules = dict(_MMAGIC)
    for kind in METRICS.module_dict.values():
        rules.update(getattr(kind, 'better', {}))
    name = key.rpartition('/')[2].lower()
    name = name.rstrip('0123456789')  # of k10
    fits = [begin for begin in rules if name == begin or name.startswith(f'{begin}_')]
    return rules[max(fits, key=len)] if fits else None
