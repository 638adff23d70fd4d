"""The flags of the commands; plain argparse, imported by ``--help``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .graph_arguments import add_graphs
from .keep_arguments import add_budget, keep_of

FITS = ('whole', 'crop')
FEATURES = ('cls', 'avg', 'codes')
MODES = ('compressed', 'full', 'restricted', 'speculative')


def add_commands(commands: Any) -> None:
    """Add all commands.

    Args:
        commands (argparse._SubParsersAction): Of the parser.
    """
    _models(commands)
    _reconstruct(commands)
    _encode(commands)
    _decode(commands)
    _features(commands)
    _generate(commands)
    _edit(commands)
    _export(commands)
    _export_onnx(commands)
    _web(commands)


def _command(
    commands: Any, name: str, text: str, more: str = ''
) -> argparse.ArgumentParser:
    """A command with ``--debug``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f'{text[0].upper()}{text[1:]}.\n\n{more}'.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of an error'
    )
    parser.set_defaults(run=name.replace('-', '_'))
    return parser


def _model(
    parser: argparse.ArgumentParser, generator: bool = False, **options: Any
) -> None:
    """Flags that name a model."""
    parser.add_argument(
        'model',
        metavar='MODEL',
        **{'help': 'name of a model, folder of one, or config file', **options},
    )
    group = parser.add_argument_group('model')
    group.add_argument(
        '--weights', metavar='PATH', help="checkpoint. Default: the folder's own"
    )
    if generator:
        group.add_argument(
            '--tokenizer',
            metavar='PATH',
            help="checkpoint of the generator's tokenizer. Default: the config's",
        )
    group.add_argument('--device', help='default: a GPU where there is one')
    group.add_argument(
        '--random-weights',
        action='store_true',
        help='run without weights, to try the command',
    )


def _images(parser: argparse.ArgumentParser, fit: str = 'whole') -> None:
    """Flags of images that go in."""
    parser.add_argument(
        'images', metavar='IMAGE', nargs='+', help='files, folders, http(s) addresses'
    )
    group = parser.add_argument_group('images')
    group.add_argument(
        '--size',
        type=int,
        metavar='PIXELS',
        help="shorter edge to resize to. Default: the model's",
    )
    group.add_argument(
        '--fit',
        choices=FITS,
        help=f'the whole picture, or a square as in validation. Default: {fit}',
    )
    _batch(group)
    _strict(group)


def _batch(group: Any) -> None:
    group.add_argument(
        '--batch-size', type=int, default=8, metavar='N', help='at a time. Default: 8'
    )
    group.add_argument('--quiet', action='store_true', help='tell no progress')


def _strict(group: Any) -> None:
    group.add_argument(
        '--strict',
        action='store_true',
        help='exit code 1 where one of several files cannot be read',
    )


def _keep(
    parser: argparse.ArgumentParser,
    default: str = "the model's",
    decoder: bool = True,
    **options: Any,
) -> None:
    """Flags of K, one for all images or one for each."""
    group = parser.add_argument_group('tokens')
    group.add_argument(
        '--keep',
        type=keep_of,
        metavar='K',
        help=f'tokens, or a share such as 0.25, or all. Default: {default}',
        **options,
    )
    add_budget(group, decoder)


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(default),
        metavar='FOLDER',
        help=f'where to write. Default: {default}',
    )


def _models(commands: Any) -> None:
    parser = _command(
        commands, 'models', 'list the models that there are configs or weights of'
    )
    parser.add_argument(
        'pattern', nargs='?', help='what a name begins with, with wildcards'
    )
    parser.add_argument(
        '--paths', action='store_true', help='also the paths of the configs'
    )
    parser.add_argument(
        '--pretrained', action='store_true', help='those alone that come with weights'
    )


def _reconstruct(commands: Any) -> None:
    parser = _command(
        commands,
        'reconstruct',
        'reconstruct images from K tokens',
        'Writes NAME_K<K>.png, the reconstruction; NAME_merge_K<K>.png, what has\n'
        'merged; and of several K NAME_strip.png, all of them with PSNR and bits.\n'
        'Several images: K<K>/NAME.png, merge_K<K>/NAME.png and strip/NAME.png, and\n'
        'contact_sheet.png and summary.csv of them all.',
    )
    _model(parser)
    _images(parser)
    _keep(parser, nargs='+')
    parser.add_argument(
        '--predict-source',
        action='store_true',
        help='also decode with the source map that the tokenizer predicts',
    )
    parser.add_argument(
        '--no-pictures', action='store_true', help='write the reconstructions alone'
    )
    _out(parser, 'pictures')


def _encode(commands: Any) -> None:
    parser = _command(
        commands,
        'encode',
        'encode images as token files',
        'Writes NAME.mvq: codes of exactly their bits and the source map. Only the\n'
        'tokenizer that encoded a file decodes it.',
    )
    _model(parser)
    _images(parser)
    _keep(parser)
    parser.add_argument(
        '--no-map',
        action='store_true',
        help='leave the source map out; the tokenizer predicts it',
    )
    _out(parser, 'tokens')


def _decode(commands: Any) -> None:
    parser = _command(commands, 'decode', 'decode token files to images')
    _model(parser)
    parser.add_argument(
        'files', metavar='FILE', nargs='+', help='files that encode wrote, or folders'
    )
    group = parser.add_argument_group('files')
    _batch(group)
    _strict(group)
    _out(parser, 'decoded')


def _features(commands: Any) -> None:
    parser = _command(
        commands,
        'features',
        'write features of images',
        'The file has an array a feature, N rows each, and the paths. For a data set\n'
        'with labels use tools/extract_features.py.',
    )
    _model(parser)
    _images(parser, 'crop')
    parser.add_argument(
        '--features',
        nargs='+',
        choices=FEATURES,
        default=list(FEATURES),
        metavar='NAME',
        help='cls (class token), avg (mean of the tokens), codes (mean of the codes). '
        'Default: all',
    )
    _keep(parser, 'no merging', decoder=False)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('features.npz'),
        metavar='FILE',
        help='.npz or .safetensors. Default: features.npz',
    )


def _generate(commands: Any) -> None:
    parser = _command(
        commands,
        'generate',
        'generate images of classes',
        'Writes CLASS_PLACE.png and grid.png. The n-th image of a class is the same\n'
        'whatever else is drawn. For several processes and the files of evaluation\n'
        'suites use tools/generate.py.',
    )
    _model(parser, generator=True)
    parser.add_argument(
        '--classes', type=int, nargs='+', metavar='C', help='default: the first ten'
    )
    parser.add_argument(
        '--num-per-class', type=int, default=1, metavar='N', help='default: 1'
    )
    parser.add_argument('--seed', type=int, help="default: the model's, or 0")
    _batch(parser)
    _sampling(parser)
    _out(parser, 'samples')


def _sampling(parser: argparse.ArgumentParser) -> None:
    """Flags of how a generator draws."""
    group = parser.add_argument_group(
        'sampling', "Without them, what the model's config says."
    )
    group.add_argument('--keep', type=int, metavar='K', help='distinct tokens')
    group.add_argument(
        '--mode',
        choices=MODES,
        help='of MergeAR: a compressed or a full cache, no more than K distinct codes, '
        'or several tokens at a time',
    )
    _drawing(group)
    group.add_argument(
        '--num-steps', type=int, metavar='N', help='for the K codes, of RandAR'
    )


def _drawing(group: Any) -> None:
    """Flags of how a value is drawn."""
    for name, kind, text in (
        ('guidance', float, 'classifier-free guidance; 1 is none'),
        ('temperature', float, '0 is greedy'),
        ('top-k', int, '0 keeps all values'),
        ('top-p', float, '1 keeps all values'),
    ):
        group.add_argument(
            f'--{name}',
            type=kind,
            nargs='+',
            metavar='X',
            help=f'{text}; one number, or one for each part of a code',
        )


def _edit(commands: Any) -> None:
    parser = _command(
        commands,
        'edit',
        'draw a region of an image anew',
        'Writes NAME_edit<N>.png, and grid.png: the image, the tokens that are drawn\n'
        'anew, the results. The tokens outside of the region are kept. RandAR draws\n'
        'any region, MergeAR one that ends the raster, such as the lower half.',
    )
    _model(parser, generator=True)
    parser.add_argument('image', metavar='IMAGE', help='file or http(s) address')
    parser.add_argument(
        '--mask',
        required=True,
        metavar='MASK',
        help='image of the same size as IMAGE upright, white where to draw anew and '
        'black elsewhere',
    )
    parser.add_argument(
        '--class',
        dest='label',
        type=int,
        metavar='C',
        help='of what is drawn. Default: without a class, and so without guidance',
    )
    parser.add_argument(
        '--num', type=int, default=1, metavar='N', help='variants. Default: 1'
    )
    parser.add_argument('--seed', type=int, help="default: the model's, or 0")
    _batch(parser)
    _sampling(parser)
    _out(parser, 'edited')


def _export(commands: Any) -> None:
    parser = _command(
        commands,
        'export',
        'turn a checkpoint of a training run into a folder for others',
        'The folder has a config of plain data and weights as safetensors; that of a\n'
        'generator has its tokenizer, too. Every command takes it as MODEL, and\n'
        'transformers loads a tokenizer, with the code that lies beside it.',
    )
    _model(parser, generator=True)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='to write')
    parser.add_argument(
        '--half', action='store_true', help='weights as float16, half as large'
    )
    parser.add_argument(
        '--images', metavar='TEXT', help='what it was trained on, for its card and page'
    )


def _export_onnx(commands: Any) -> None:
    parser = _command(
        commands,
        'export-onnx',
        'write a model as graphs for onnxruntime, which need no torch',
        'Of a tokenizer: encoder_k<K>.onnx for each K, encoder_all.onnx without\n'
        'merging, decoder.onnx. Of a MergeAR generator: start_k<K>.onnx, and with its\n'
        'full cache step_k<K>.onnx, and decoder.onnx. All are compared with torch, or\n'
        'none is written. Needs pip install "mergevq_mm[export]".',
    )
    _model(parser, generator=True)
    add_graphs(parser)
    _drawing(parser.add_argument_group('sampling', 'Of a generator.'))
    _out(parser, 'onnx')


def _web(commands: Any) -> None:
    parser = _command(
        commands,
        'web',
        'open a page to play with, on this machine',
        'Needs the package gradio: pip install "gradio>=5". Nothing is fetched\n'
        'from the network or sent to it.',
    )
    _model(
        parser,
        nargs='?',
        default='digits',
        help='as of all commands. Default: digits, which the package ships',
    )
    group = parser.add_argument_group('generator')
    group.add_argument(
        '--generator',
        metavar='MODEL',
        help='for the tabs to generate and to edit, which a MODEL that is a generator '
        'brings by itself',
    )
    group.add_argument('--generator-weights', metavar='PATH')
    group.add_argument('--generator-tokenizer', metavar='PATH')
    parser.add_argument(
        '--examples',
        nargs='+',
        metavar='IMAGE',
        help='to pick from, files or folders. Default: some of the generator',
    )
    parser.add_argument('--host', default='127.0.0.1', help='default: 127.0.0.1')
    parser.add_argument('--port', type=int, default=7860, help='default: 7860')
