"""What a trained tokenizer makes of images: reconstructions and features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .base_inferencer import ImageInferencer
from .image_inputs import NamedImage, list_inputs
from .outputs import check_apart
from .token_file import TokenFile

if TYPE_CHECKING:
    from mergevq_mm.models.utils.budget import Budget
    from mergevq_mm.models.utils.structures import MergedTokens


class ReconstructionInferencer(ImageInferencer):
    """Images to K tokens and back, at any K.

    Results are dicts with ``name``, ``source``, ``original`` (H×W×3 uint8), ``grid``
    and ``reconstructions``: K to a dict with ``image`` (H×W×3 uint8), ``index`` (K
    codes), ``group`` (the token of each raster position, L), ``psnr`` in dB,
    ``code_bits`` and ``map_bits``, ``bpp``, their sum a pixel; ``asked``, names of what
    this K was asked for as; and ``predicted_image`` where the source map is predicted.
    With ``draw`` also ``pictures`` by name.

    Examples:
        >>> from mergevq_mm.apis import ReconstructionInferencer
        >>> reconstruct = ReconstructionInferencer('folder-of-a-model')
        >>> result = reconstruct('cat.jpg', keep=[256, 64], draw=True)[0]
    """

    forward_kwargs = {'keep', 'predict_source'}
    visualize_kwargs = {'draw'}
    postprocess_kwargs = {'out_dir'}
    task = 'reconstruct'

    def forward(
        self,
        inputs: Sequence[NamedImage],
        keep: int | float | Budget | Sequence[int | float | Budget] | None = None,
        predict_source: bool = False,
    ) -> list[dict[str, Any]]:
        """Reconstruct a batch.

        Args:
            inputs (Sequence[NamedImage]): Images of one size.
            keep (int | float | Budget | Sequence, optional): K or shares, one or
                several; a :class:`~mergevq_mm.Budget` gives each image of the batch a K
                of its own. Defaults to None, the model's.
            predict_source (bool): Whether to decode with the predicted map, too.
                Defaults to False.

        Returns:
            list[dict]: A result each.

        Raises:
            ValueError: If a K cannot be reached, or no map can be predicted.
        """
        from mergevq_mm.models.utils.budget import is_list
        from mergevq_mm.models.utils.budget_signals import encode_ragged

        parts = self.parts
        if predict_source and not parts.neck.learned:
            raise ValueError(
                'predict_source=True, but this tokenizer has not learned to predict '
                'the source map; leave it out.'
            )
        images = self.images(inputs)
        embedded = parts.backbone.embed(images)  # once, whatever K
        grid = embedded.grid
        keeps: list[int | float | Budget | None]
        keeps = list(keep) if is_list(keep) else [keep]
        if not keeps:
            raise ValueError('keep=[] asks for nothing; give at least one K.')
        results: list[dict[str, Any]] = [
            {
                'name': image.name,
                'source': image.source,
                'original': image.pixels,
                'grid': grid,
                'reconstructions': {},
            }
            for image in inputs
        ]
        asked: dict[int | Budget, list[str]] = {}
        read = [self.read_keep(k, grid) for k in keeps]
        for k, name in zip(read, _keep_names(keeps), strict=True):
            asked.setdefault(k, []).append(name)
        for one, names in asked.items():
            merged = encode_ragged(parts, images, one, embedded)
            for tokens, (rows, part) in merged.parts.items():
                made = self._make(part, predict_source)
                self._note([results[row] for row in rows], tokens, made, names)
        return results

    def _make(
        self, merged: MergedTokens, predict_source: bool
    ) -> dict[str, torch.Tensor]:
        """Codes and reconstructions of images that have one K."""
        quantized = self.parts.quantizer(merged.tokens)
        made = {
            'image': self._decode(quantized.codes, merged.group, merged.grid),
            'index': quantized.index,
            'group': merged.group,
        }
        if predict_source:
            made['predicted_image'] = self._decode(quantized.codes, None, merged.grid)
        return made

    def _decode(
        self, codes: torch.Tensor, group: torch.Tensor | None, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Images in [0, 1]."""
        from mergevq_mm.models.utils.pixel_range import to_unit_range

        recovered = self.parts.neck(codes, group, grid)
        return to_unit_range(self.parts.decoder(recovered.tokens, grid))

    def _note(
        self,
        results: list[dict[str, Any]],
        keep: int,
        made: dict[str, Any],
        names: list[str],
    ) -> None:
        """Add what was made at one K to the results."""
        from mergevq_mm.evaluation.functional.image_quality import psnr
        from mergevq_mm.visualization import to_uint8

        for i, result in enumerate(results):
            original = torch.from_numpy(result['original']).permute(2, 0, 1) / 255
            index = made['index'][i].cpu().numpy()
            group = made['group'][i].cpu().numpy()
            grid = result['grid']
            file = TokenFile(index, group, grid, self.parts.quantizer.bits, '')
            image = made['image'][i].cpu()
            before = result['reconstructions'].get(keep, {'asked': []})
            noted = {
                'asked': [*before['asked'], *names],
                'image': to_uint8(image),
                'index': index,
                'group': group,
                'psnr': float(psnr(image[None], original[None])[0]),
                'code_bits': file.code_bits,
                'map_bits': file.map_bits,
                'bpp': (file.code_bits + file.map_bits) / original[0].numel(),
            }
            if 'predicted_image' in made:
                noted['predicted_image'] = to_uint8(made['predicted_image'][i])
            result['reconstructions'][keep] = noted

    def visualize(
        self,
        inputs: Sequence[NamedImage],
        preds: Sequence[dict[str, Any]],
        draw: bool = False,
    ) -> list[dict[str, Any]]:
        """Merge map of each K, and of several K a strip.

        Args:
            inputs (Sequence[NamedImage]): The batch.
            preds (Sequence[dict]): Its results.
            draw (bool): Whether to draw. Defaults to False.

        Returns:
            list[dict]: 'merge_K<K>' and 'strip' to H'×W'×3 uint8.
        """
        if not draw:
            return [{} for _ in preds]
        return [self._pictures(pred) for pred in preds]

    def _pictures(self, pred: dict[str, Any]) -> dict[str, np.ndarray]:
        from mergevq_mm import visualization as vis

        made = pred['reconstructions']
        pictures = {
            f'merge_K{keep}': vis.merge_panel(
                pred['original'], one['group'], pred['grid']
            )
            for keep, one in made.items()
        }
        if len(made) > 1:
            images = {keep: _unit(one['image']) for keep, one in made.items()}
            bits = {k: (one['code_bits'], one['map_bits']) for k, one in made.items()}
            pictures['strip'] = vis.reconstruction_strip(
                _unit(pred['original']), images, bits
            )
        return pictures

    def outputs(self, result: dict[str, Any]) -> dict[str, np.ndarray]:
        """Reconstructions and pictures, named by what they are.

        Of one image they are NAME_<what it is>.png. Of several they are <what was asked
        for>/NAME.png: a share of the positions is another K for each size of image.
        """
        named, pictures = {}, result.get('pictures', {})
        for keep, one in result['reconstructions'].items():
            for kind in one['asked'] if self.number > 1 else [f'K{keep}']:
                named[kind] = one['image']
                if 'predicted_image' in one:
                    named[f'{kind}_predicted'] = one['predicted_image']
                if pictures:
                    named[f'merge_{kind}'] = pictures[f'merge_K{keep}']
        if 'strip' in pictures:
            named['strip'] = pictures['strip']
        form = '{name}_{kind}.png' if self.number == 1 else '{kind}/{name}.png'
        name = result['name']
        return {form.format(name=name, kind=kind): made for kind, made in named.items()}

    def _inputs_to_list(
        self, inputs: Any, out_dir: str | os.PathLike[str] | None = None
    ) -> list[tuple[str, Any]]:
        check_apart(inputs, out_dir)
        return list_inputs(inputs, None, out_dir)


class FeatureInferencer(ImageInferencer):
    """Images to features: class token, mean of tokens, mean of codes.

    Images are prepared as in validation. Results are dicts with ``name``,
    ``source`` and an array for each feature: ``cls`` (D), ``avg`` (D), ``codes`` (d).
    """

    forward_kwargs = {'keep', 'features'}
    fit = 'crop'
    task = 'features'

    def forward(
        self,
        inputs: Sequence[NamedImage],
        keep: int | float | Budget | None = None,
        features: Sequence[str] = ('cls', 'avg', 'codes'),
    ) -> list[dict[str, Any]]:
        """Features of a batch.

        Args:
            inputs (Sequence[NamedImage]): Images of one size.
            keep (int | float | Budget, optional): K or a share, or what to spend on the
                batch, by similarity. Defaults to None, no merging.
            features (Sequence[str]): Which. Defaults to all.

        Returns:
            list[dict]: A result each.

        Raises:
            ValueError: If a feature is not known.
        """
        from mergevq_mm.evaluation.features import TokenFeatures

        backbone = self.parts.backbone
        if keep is not None:
            keep = self.read_keep(keep, backbone.grid_of(*inputs[0].pixels.shape[:2]))
        extract = TokenFeatures(backbone, self.parts.quantizer, features, keep)
        found = extract(self.images(inputs))
        arrays = {name: value.cpu().numpy() for name, value in found.items()}
        return [
            {
                'name': image.name,
                'source': image.source,
                **{name: array[i] for name, array in arrays.items()},
            }
            for i, image in enumerate(inputs)
        ]


def _keep_names(keeps: Sequence[int | float | Budget | None]) -> list[str]:
    """What somebody has asked for, as names of folders: another for each request."""
    alike: dict[str, list[Any]] = {}
    names = []
    for keep in keeps:
        name = _keep_name(keep)
        others = alike.setdefault(name, [])
        if keep not in others:
            others.append(keep)
        number = others.index(keep) + 1
        names.append(name if number == 1 else f'{name}_{number}')
    return names


def _keep_name(keep: int | float | Budget | None) -> str:
    """A request in a word; of budgets not the K to choose from."""
    from mergevq_mm.models.utils.budget import Budget

    if keep is None:
        return 'own_K'
    if isinstance(keep, Budget):
        name, value = keep.aim
        of_all = name == 'mean' and isinstance(value, float) and value == 1
        number = '_all' if of_all else f'{value:g}'
        return f'{name}{number}' + (f'_{keep.by}' if keep.by else '')
    return 'all' if isinstance(keep, float) and keep == 1 else f'K{keep:g}'


def _unit(pixels: np.ndarray) -> torch.Tensor:
    """H×W×3 uint8 to 3×H×W in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1) / 255
