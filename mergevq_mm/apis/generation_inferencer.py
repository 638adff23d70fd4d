"""Images of classes from a trained generator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .base_inferencer import MergeVQInferencer

if TYPE_CHECKING:
    from mergevq_mm.models.generators.token_generator import TokenGenerator

# How MergeAR draws, and what that is in the words of ``sample_codes``.
MODES: dict[str, dict[str, Any]] = {
    'compressed': {'cache': 'compressed'},
    'full': {'cache': 'full'},
    'restricted': {'cache': 'compressed', 'restrict': True},
    'speculative': {'cache': 'compressed', 'speculative': 4},
}


class Wanted(NamedTuple):
    """An image to generate: its class, its place in the class, its number."""

    label: int
    place: int
    number: int


class GenerationInferencer(MergeVQInferencer):
    """Images of given classes.

    The n-th image of a class is the same whatever other classes and batch size there
    are, and the same as that of ``tools/generate.py`` with this seed.

    Inputs are classes, one or several. Results are dicts with ``name``, ``label``,
    ``place``, ``image`` (H×W×3 uint8), ``index`` (the drawn codes), ``keep`` and
    ``stats``, numbers such as the ``distinct`` codes and the ``cache_bytes``.

    Args:
        *args: Of :class:`MergeVQInferencer`.
        dtype (str): 'bf16' draws with weights and cache in bfloat16, the tokenizer's in
            float32; a model that is given is converted itself. Defaults to 'fp32'.
        **kwargs: Of :class:`MergeVQInferencer`.

    Examples:
        >>> from mergevq_mm.apis import GenerationInferencer
        >>> generate = GenerationInferencer('folder-of-a-generator')
        >>> images = [r['image'] for r in generate([207, 360], num_per_class=4, seed=1)]
    """

    preprocess_kwargs = {'num_per_class'}
    forward_kwargs = {
        'keep',
        'seed',
        'mode',
        'guidance',
        'guidance_schedule',
        'temperature',
        'top_k',
        'top_p',
        'step',
        'num_steps',
        'step_schedule',
    }
    postprocess_kwargs = {'out_dir'}
    task = 'generate'
    model: TokenGenerator

    def __init__(self, *args: Any, dtype: str = 'fp32', **kwargs: Any) -> None:
        from mergevq_mm.models.generators.precision import set_precision

        super().__init__(*args, **kwargs)
        set_precision(self.model, dtype)

    def check_model(self) -> None:
        """See :class:`MergeVQInferencer`."""
        if not hasattr(self.model, 'sample_codes'):
            raise ValueError(
                f'{type(self.model).__name__} is no generator; give a MergeAR or a '
                "RandAR, such as 'digits' or that of configs/mergear_l_g+r.py."
            )
        self.model.tokenizer.init_weights()  # an early error where its file is missing

    def count(self, listed: Sequence[int], num_per_class: int = 1) -> int:
        """See :class:`MergeVQInferencer`."""
        return len(listed) * num_per_class

    def _inputs_to_list(
        self, inputs: Any, out_dir: str | os.PathLike[str] | None = None
    ) -> list[int]:
        labels = torch.as_tensor(inputs).flatten()
        if not labels.numel() or labels.is_floating_point():
            raise ValueError(
                f'inputs={inputs!r} are no classes; give whole numbers from 0 to '
                f'{self.model.num_classes - 1}.'
            )
        classes: list[int] = self.model.check_labels(labels).tolist()
        if len(set(classes)) != len(classes):
            raise ValueError(
                f'inputs={classes} name a class twice; use num_per_class for more '
                'images of it.'
            )
        return classes

    def preprocess(
        self, inputs: Sequence[int], batch_size: int = 8, num_per_class: int = 1
    ) -> Iterator[list[Wanted]]:
        """List the images: place by place, in each the classes in the order given.

        Args:
            inputs (Sequence[int]): Classes.
            batch_size (int): Images at a time. Defaults to 8.
            num_per_class (int): Images of each class. Defaults to 1.

        Yields:
            list[Wanted]: A batch.

        Raises:
            ValueError: If there is no image to make.
        """
        if num_per_class < 1:
            raise ValueError(
                f'num_per_class={num_per_class} makes no image; give at least 1.'
            )
        wanted = [
            Wanted(label, place, place * self.model.num_classes + label)
            for place in range(num_per_class)
            for label in inputs
        ]
        for start in range(0, len(wanted), batch_size):
            yield wanted[start : start + batch_size]

    def forward(
        self,
        inputs: Sequence[Wanted],
        keep: int | None = None,
        seed: int | None = None,
        mode: str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Generate a batch.

        Args:
            inputs (Sequence[Wanted]): The images.
            keep (int, optional): K. Defaults to None, the model's.
            seed (int, optional): Defaults to None, the model's, or 0.
            mode (str, optional): Of MergeAR: 'compressed' or 'full' cache, 'restricted'
                to K distinct codes, 'speculative'. Defaults to None, the model's.
            **options: ``guidance``, ``temperature``, … of ``sample_codes``.

        Returns:
            list[dict]: A result each.

        Raises:
            ValueError: If an option is not known or out of range.
        """
        from mergevq_mm.models.generators.generation_request import seeds_of
        from mergevq_mm.visualization import to_uint8

        options = {name: value for name, value in options.items() if value is not None}
        options |= mode_options(mode)
        if seed is None:
            seed = self.model.sample_cfg.get('seed', 0)
        images, drawn = self.model.generate(
            [one.label for one in inputs],
            keep=keep,
            seeds=seeds_of(seed, [one.number for one in inputs]),
            **options,
        )
        digits = len(str(self.model.num_classes - 1))
        stats = {name: values.float().tolist() for name, values in drawn.stats.items()}
        return [
            {
                'name': f'{one.label:0{digits}d}_{one.place:05d}',
                'label': one.label,
                'place': one.place,
                'image': to_uint8(images[i].float() * 0.5 + 0.5),
                'index': drawn.index[i].cpu().numpy(),
                'keep': drawn.keep,
                'stats': {name: values[i] for name, values in stats.items()},
            }
            for i, one in enumerate(inputs)
        ]

    def outputs(self, result: dict[str, Any]) -> dict[str, np.ndarray]:
        """The image as PNG."""
        return {f'{result["name"]}.png': result['image']}


def mode_options(mode: str | None) -> dict[str, Any]:
    """What a mode is in the words of ``sample_codes``.

    Args:
        mode (str, optional): Of :data:`MODES`; None leaves it to the model.

    Returns:
        dict[str, Any]: Options.

    Raises:
        ValueError: If it is not known.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(
            f"mode='{mode}' is not known; choose one of {', '.join(MODES)}."
        )
    return dict(MODES[mode]) if mode else {}
