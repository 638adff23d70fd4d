"""Make the files of this version that later ones have to read.

    python tests/legacy/make.py

Run once for each version that is released, and whenever ``FORMAT`` of
``mergevq_mm/utils/checkpoint_format.py`` rises; a folder that is there is not touched.
It takes half a minute, on one thread of a CPU.
"""

from __future__ import annotations

import json
import lzma
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

import mergevq_mm  # noqa: E402, I001  (before torchvision and mmagic)
import torch  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from runs import (  # noqa: E402
    CODES,
    GENERATORS,
    IMAGES,
    KEEPS,
    PUBLISHED,
    RUNS,
    STAGE1,
    digest,
    generator_config,
    last_epoch,
    machine,
    stage1_config,
    total_weight,
)
from tiny_mergevq import write_images  # noqa: E402

IMAGE = IMAGES / 'val' / 'a' / '0.png'
LIMIT = 200_000  # bytes of all files


def train(name: str) -> dict[str, Any]:
    """Train a run to its end; what its second epoch has logged and drawn."""
    cfg = stage1_config() if name == STAGE1 else generator_config(name)
    Path('configs').mkdir(exist_ok=True)
    cfg.dump(f'configs/{name}.py')
    runner = Runner.from_cfg(cfg)
    runner.train()
    content = torch.load(f'work/{name}/epoch_2.pth', weights_only=True)
    return {
        'logged': last_epoch(runner),
        'random': digest(content['rng_states']),
        'weight': total_weight(runner),
    }


def publish() -> dict[str, Any]:
    """Publish the first epoch of stage 1, and encode with it."""
    mergevq_mm.export_checkpoint(
        f'configs/{STAGE1}.py', f'work/{STAGE1}/epoch_1.pth', PUBLISHED
    )
    tool = HERE.parents[1] / 'tools' / 'extract_codes.py'
    arguments = [f'configs/{STAGE1}.py', str(PUBLISHED / 'model.safetensors'), 'codes']
    keeps = ['--keep', *map(str, KEEPS), '--device', 'cpu', '--num-workers', '0']
    runpy.run_path(str(tool))['main']([*arguments, *keeps])
    encoder = mergevq_mm.EncodingInferencer(str(PUBLISHED), device='cpu')
    encoder(str(IMAGE), keep=9, out_dir='tokens')
    (file,) = Path('tokens').glob('*.mvq')
    shutil.copy(file, 'tokens.mvq')
    tokens = mergevq_mm.apis.token_file.read_token_file('tokens.mvq')
    decoder = mergevq_mm.DecodingInferencer(str(PUBLISHED), device='cpu')
    pixels = decoder('tokens.mvq')[0]['image']
    return {
        'index': tokens.index.tolist(),
        'group': tokens.group.tolist(),
        'fingerprint': tokens.fingerprint,
        'pixels': pixels.tolist(),
    }


def make(target: Path) -> None:
    """Make a folder in the current one, then move its files to their place."""
    for split, number in (('train', 4), ('val', 1)):
        write_images(Path('images'), number, split)
    expected: dict[str, Any] = {'machine': machine(), STAGE1: train(STAGE1)}
    expected['tokens'] = publish()
    expected.update({name: train(name) for name in GENERATORS})
    target.mkdir(parents=True)
    for name in RUNS:
        content = Path(f'work/{name}/epoch_1.pth').read_bytes()
        (target / f'{name}.pth.xz').write_bytes(lzma.compress(content, preset=9))
    for folder in (IMAGES, PUBLISHED, CODES):
        shutil.copytree(folder, target / folder)
    shutil.copy('tokens.mvq', target)
    lines = ',\n'.join(f'"{k}": {json.dumps(v)}' for k, v in expected.items())
    (target / 'expected.json').write_text(f'{{{lines}}}\n')


def main() -> None:
    version = '.'.join(mergevq_mm.__version__.split('.')[:2])
    target = HERE / version
    if target.exists():
        sys.exit(f'error: "{target}" is there already: remove it to make it anew.')
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # nothing has asked for a device yet
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(target)
        os.chdir(HERE)
    files = {path: path.stat().st_size for path in target.rglob('*') if path.is_file()}
    for path, size in sorted(files.items()):
        print(f'{size:8,} {path.relative_to(target)}')
    size = sum(files.values())
    print(f'{size:8,} {target}')
    if size > LIMIT:
        sys.exit(f'error: that is more than {LIMIT:,}: make the models smaller.')


if __name__ == '__main__':
    main()
