"""Features of trained tokenizers, for whole data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mergevq_mm.base.config import Config
    from mergevq_mm.models.backbones import MergeVQEncoder
    from mergevq_mm.models.quantizers import LFQ
    from mergevq_mm.models.utils.budget import Budget
    from mergevq_mm.models.utils.structures import MergedTokens

FEATURES = ('cls', 'avg', 'codes')


class TokenFeatures(nn.Module):
    """What a trained tokenizer says about an image, in one pass.

    ``cls`` is the class token (D), ``avg`` the mean of the tokens over all positions
    (D), ``codes`` the mean of the quantised codes over all positions (d). A merged
    token counts once for each position that it stands for.

    Args:
        backbone (MergeVQEncoder): The encoder.
        quantizer (LFQ, optional): For ``codes``. Defaults to None.
        names (Iterable[str]): Features to compute. Defaults to 'cls' and 'avg'.
        keep (int | float | Budget, optional): Tokens to keep, or their share, or what
            to spend on each batch, by similarity. Defaults to None, no merging.

    Raises:
        ValueError: If a feature is unknown, or needs a quantizer that is not given.
    """

    def __init__(
        self,
        backbone: MergeVQEncoder,
        quantizer: LFQ | None = None,
        names: Iterable[str] = ('cls', 'avg'),
        keep: int | float | Budget | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        unknown = sorted(set(self.names) - set(FEATURES))
        if unknown or not self.names:
            raise ValueError(
                f'features {list(self.names)} name unknown ones {unknown}; choose '
                f'from {", ".join(FEATURES)}.'
            )
        if 'codes' in self.names and quantizer is None:
            raise ValueError(
                "the feature 'codes' needs the quantizer; give one, or choose from "
                'cls, avg.'
            )
        self.backbone = backbone
        self.quantizer = quantizer
        self.keep = keep

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            images (Tensor): B×3×H×W in [-1, 1].

        Returns:
            dict[str, Tensor]: Name to B×D, or B×d for 'codes'.

        Raises:
            ValueError: If a budget asks for a PSNR, which needs a decoder.
        """
        from mergevq_mm.models.utils.budget import Budget
        from mergevq_mm.models.utils.budget_signals import encode_ragged

        if isinstance(self.keep, Budget):
            found = encode_ragged(self, images, self.keep).map(self._features)
            return {
                name: found.map(lambda part, name=name: part[name]).join()
                for name in self.names
            }
        return self._features(self.backbone(images, self.keep, mode='encode'))

    def _features(self, merged: MergedTokens) -> dict[str, Tensor]:
        """Features of images that have one K."""
        share = merged.size.to(merged.tokens.dtype) / merged.group.shape[1]  # B×K
        found = {'cls': merged.cls}
        if 'avg' in self.names:
            found['avg'] = torch.einsum('bk,bkd->bd', share, merged.tokens)
        if 'codes' in self.names:
            codes = self.quantizer(merged.tokens).codes  # B×K×d
            found['codes'] = torch.einsum('bk,bkd->bd', share, codes)
        return {name: found[name].float() for name in self.names}


@torch.inference_mode()
def collect_features(
    extract: Callable[[Tensor], Mapping[str, Tensor]],
    loader: Iterable[dict],
    preprocessor: nn.Module,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Features, labels and paths of all images of a data loader, in its order.

    Args:
        extract (Callable): Images B×3×H×W to features by name, B×D each. A module is
            put into evaluation mode.
        loader (Iterable[dict]): Batches of mmpretrain.
        preprocessor (nn.Module): The model's, on the device of ``extract``.
        advance (Callable): Told after each batch how many images it had. Defaults to
            nothing.

    Returns:
        dict[str, np.ndarray]: Name to N×D float32, ``label`` N int64 (-1 where there
        is none) and ``path`` N strings.

    Raises:
        ValueError: If there is no image.
    """
    if isinstance(extract, nn.Module):
        extract.eval()
    found: dict[str, list[np.ndarray]] = {}
    labels: list[int] = []
    paths: list[str] = []
    for batch in loader:
        data = preprocessor(batch, False)
        images, samples = data['inputs'], data['data_samples']
        if isinstance(images, (list, tuple)):
            images = images[0]
        for name, value in extract(images).items():
            found.setdefault(name, []).append(value.cpu().numpy())
        for sample in samples:
            labels.append(int(sample.gt_label) if 'gt_label' in sample else -1)
            paths.append(str(sample.get('img_path', '')))
        advance(len(samples))
    if not labels:
        raise ValueError('the data loader holds no image; give at least one.')
    rows = {name: np.concatenate(parts) for name, parts in found.items()}
    return {**rows, 'label': np.array(labels, dtype=np.int64), 'path': np.array(paths)}


def load_token_features(
    cfg: Config,
    checkpoint: str,
    names: Iterable[str] = ('cls', 'avg'),
    keep: int | float | Budget | None = None,
    device: str | torch.device = 'cpu',
) -> tuple[TokenFeatures, nn.Module]:
    """Encoder, quantizer and preprocessor of a trained MergeVQ.

    Args:
        cfg (Config): A stage-1 config.
        checkpoint (str): Path or URL of a checkpoint of it.
        names (Iterable[str]): Features to compute. Defaults to 'cls' and 'avg'.
        keep (int | float | Budget, optional): As of :class:`TokenFeatures`. Defaults to
            None, no merging.
        device (str | torch.device): Defaults to 'cpu'.

    Returns:
        tuple[TokenFeatures, nn.Module]: In evaluation mode, on the device.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the config is not a MergeVQ's, or the checkpoint holds no
            encoder that fits it.
    """
    from mergevq_mm.models.utils.graphed_methods import use_graphs
    from mergevq_mm.registry import MODELS
    from mergevq_mm.utils import load_checkpoint_file, load_pretrained

    model: Mapping[str, Any] = cfg.get('model') or {}
    names = tuple(names)
    parts = ['backbone', 'quantizer'] if 'codes' in names else ['backbone']
    missing = [part for part in parts if part not in model]
    if missing:
        raise ValueError(
            f'the config has no model.{missing[0]}; give the config of a MergeVQ, such '
            'as configs/mergevq_g+r.py.'
        )
    content = load_checkpoint_file(checkpoint)
    built = {}
    for part in parts:
        built[part] = MODELS.build(dict(model[part]))
        load_pretrained(built[part], content, prefix=f'{part}.')
    given = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    to_unit = {'mean': [127.5] * 3, 'std': [127.5] * 3, 'to_rgb': True}
    preprocessor = MODELS.build(
        {'type': 'mmpretrain.SelfSupDataPreprocessor', **(given or to_unit)}
    )
    extract = TokenFeatures(built['backbone'], built.get('quantizer'), names, keep)
    return use_graphs(extract.to(device).eval()), preprocessor.to(device)
