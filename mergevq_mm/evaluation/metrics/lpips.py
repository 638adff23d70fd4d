"""LPIPS of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from mergevq_mm.registry import METRICS

from ..functional import kept_counts, originals, stacked
from ..weights import WeightsFirst, check_weights_path
from .base import MeanOverImages


@METRICS.register_module()
class LPIPSMetric(WeightsFirst, MeanOverImages):
    """Learned perceptual distance per image in fp32, averaged, at every K.

    Name: ``recon/K16/lpips_alex`` (lower is better). The network belongs to the metric,
    not to the model: it is in no checkpoint. It is built when the metric is, and if its
    weights cannot be downloaded the metric is left out with a warning.

    Args:
        net (str): 'alex', 'vgg' or 'squeeze'. Defaults to 'alex', as is usual for
            evaluation.
        checkpoint (str, optional): Path or URL of torchvision's ImageNet weights of
            this network; the learned channel weights come with the ``lpips`` package.
            Defaults to None, torchvision's URL.
        required (bool): Whether weights that cannot be downloaded are an error instead.
            Defaults to False.
        **kwargs: ``keeps``, ``collect_device``, ``prefix``, ``collect_dir``.

    Raises:
        ValueError: If ``net`` is unknown.
        FileNotFoundError: If ``checkpoint`` is a path and there is no such file, or the
            weights are required and cannot be downloaded.
    """

    default_prefix = 'recon'
    better = {'lpips': 'less'}

    def __init__(
        self,
        net: str = 'alex',
        checkpoint: str | None = None,
        required: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if net not in ('alex', 'vgg', 'squeeze'):
            raise ValueError(
                f"net={net!r} of LPIPSMetric is not known; choose 'alex', 'vgg' or "
                "'squeeze'."
            )
        check_weights_path(checkpoint, 'checkpoint')
        self.net = net
        self.network: nn.Module | None = None
        self.load_weights(lambda: self._build(checkpoint), required)

    def _build(self, checkpoint: str | None) -> None:
        # Here, for it imports all models.
        from mergevq_mm.models.losses.perceptual import LPIPSLoss

        network = LPIPSLoss(self.net, checkpoint or None).eval()
        network.model.init_weights()
        self.network = network

    def measure(self, samples: Sequence[Mapping]) -> dict[str, Sequence[float]]:
        """Measure the LPIPS of B predictions, see the base class."""
        original = originals(samples).float()
        network = self.network.to(original.device)
        measured = {}
        for keep in kept_counts(samples, self.keeps):
            image = stacked(samples, keep, 'image').float()
            distance = network.distance(image * 2 - 1, original * 2 - 1)  # B
            measured[f'K{keep}/lpips_{self.net}'] = distance.tolist()
        return measured
