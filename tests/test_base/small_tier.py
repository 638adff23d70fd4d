"""Runs commands as if nothing were installed but what setup.py asks for.

``python small_tier.py NAMES WEB`` takes two JSON lists of names that may be imported:
those of the small tier, and those of the page.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import PathFinder

COMMANDS = (
    'models',
    'reconstruct digits images --keep 16 all --out pictures',
    'encode digits images --keep 16 --out tokens',
    'decode digits tokens --out decoded',
    'features digits images --out features.npz',
    'generate digits --classes 1 3 --seed 0 --out generated',
    'edit digits images/a.png --mask mask.png --seed 0 --out edited',
    'export digits exported',
)
REFUSED = (
    'reconstruct mergevq_g+r images',
    'reconstruct config.py images --random-weights',
)
NEEDING = (
    'import mmengine',
    'import mmcv',
    'import mergevq_mm.datasets',
    'import mergevq_mm.engine',
    'mergevq_mm.evaluation.KNNAccuracy',
    'mergevq_mm.visualization.curves_figure',
    'mergevq_mm.get_model("digits").val_step({})',
    'mergevq_mm.registry.MODELS.build(dict(type="mmpretrain.ResNet"))',
    'mergevq_mm.FeatureInferencer("digits")("images", return_datasamples=True)',
)


def restrict(names: list[str]) -> set[str]:
    """Hide all packages but these and those of Python itself."""
    allowed = {*names, *sys.stdlib_module_names, 'mergevq_mm', 'mergevq_mm_startup'}
    find = PathFinder.find_spec

    def found(name: str, path: object = None, target: object = None) -> object:
        return find(name, path, target) if name.partition('.')[0] in allowed else None

    PathFinder.find_spec = found
    return allowed


def strangers(allowed: set[str]) -> list[str]:
    """Packages that are loaded and should not be."""
    files = {
        name.partition('.')[0]
        for name, module in sys.modules.items()
        if getattr(module, '__file__', None)  # others are made in memory
    }
    return sorted(name for name in files - allowed if name[0] != '_')


def main() -> None:
    """Print what has happened, as JSON in the last line."""
    allowed = restrict(json.loads(sys.argv[1]))
    before = set(sys.modules)
    import mergevq_mm

    told: dict[str, object] = {
        'light': sorted({'numpy', 'timm', 'torch'} & set(sys.modules) - before)
    }
    from mergevq_mm.cli import main as mergevq

    for command in COMMANDS:
        mergevq(command.split())
    told['strangers'] = strangers(allowed)
    for command in REFUSED:
        try:
            mergevq(command.split())
        except SystemExit as error:
            told[command] = str(error)
    for code in NEEDING:
        try:
            exec(code, {'mergevq_mm': mergevq_mm})
        except Exception as error:
            told[code] = str(error)
    allowed.update(json.loads(sys.argv[2]))
    told['page'] = page()
    told['strangers of the page'] = strangers(allowed)
    print(json.dumps(told))


def page() -> str:
    """Build the page with its three tabs."""
    import mergevq_mm
    from mergevq_mm.web import build_page

    generate = mergevq_mm.GenerationInferencer('digits')
    reconstruct = mergevq_mm.ReconstructionInferencer('digits')
    edit = mergevq_mm.EditingInferencer('digits')
    return type(build_page(reconstruct, generate, (), edit)).__name__


if __name__ == '__main__':
    main()
