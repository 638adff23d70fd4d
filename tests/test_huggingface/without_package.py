"""Loads published folders as if ``mergevq_mm`` and OpenMMLab were not installed.

``python without_package.py REPOSITORY GENERATOR IMAGE OUT TORCHVISION`` writes what a
tokenizer makes of an image to OUT; TORCHVISION is our file that lets a torchvision for
GPUs be imported beside a torch without.
"""

from __future__ import annotations

import runpy
import sys
from importlib.abc import MetaPathFinder

HIDDEN = {'mergevq_mm', 'mergevq_mm_startup', 'mmengine', 'mmcv', 'mmpretrain'}


class Hide(MetaPathFinder):
    """Finds that some packages are not there."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition('.')[0] in HIDDEN:
            raise ModuleNotFoundError(f'No module named {fullname!r}', name=fullname)


def main() -> None:
    repository, generator, image, out, torchvision = sys.argv[1:]
    # What an editable install does before any script runs.
    ours = [f for f in sys.meta_path if type(f).__module__.startswith('mergevq_mm')]
    sys.meta_path[:] = [Hide(), *(f for f in sys.meta_path if f not in ours)]
    for name in [n for n in sys.modules if n.partition('.')[0] in HIDDEN]:
        del sys.modules[name]
    declare = runpy.run_path(torchvision)['declare_torchvision_ops']
    declare()  # holds as long as there is the function
    import torch
    from transformers import AutoImageProcessor, AutoModel

    made = {'hidden': 'mergevq_mm' not in sys.modules}
    arguments = dict(trust_remote_code=True)
    model, told = AutoModel.from_pretrained(
        repository, output_loading_info=True, **arguments
    )
    prepare = AutoImageProcessor.from_pretrained(repository, **arguments)
    made['loading'] = {name: list(keys) for name, keys in told.items()}
    pixels = prepare(image, return_tensors='pt').pixel_values
    with torch.no_grad():
        merged, codes = model.encode(pixels, 9)
        seen = model(pixels, keep=9)
        made |= {
            'pixels': pixels,
            'index': codes.index,
            'group': merged.group,
            'image': model.decode(merged, codes)[0],
            'predicted': model.decode(codes.index, None, merged.grid)[0],
            'each': model.reconstruct(pixels.repeat(2, 1, 1, 1), [9, 16]),
            'features': model.features(pixels),
            'seen': dict(seen),
        }
    made['picture'] = prepare.postprocess(made['image'])[0].tobytes()
    part = AutoModel.from_pretrained(generator, subfolder='tokenizer', **arguments)
    made['of the generator'] = part.encode(pixels, 9)[1].index
    try:
        AutoModel.from_pretrained(generator, **arguments)
    except ValueError as error:
        made['generator'] = str(error)
    registry = sys.modules['mergevq_mm.registry']
    made['file'], made['line'] = (
        registry.__file__,
        registry.__loader__.get_source('mergevq_mm.registry'),
    )
    torch.save(made, out)


if __name__ == '__main__':
    main()
