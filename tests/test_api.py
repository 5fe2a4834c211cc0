"""Every public name says what it is, what it takes and what comes back, and is shown at work on its own page."""
import ast
import functools
import importlib
import inspect
import json
import re
import typing
from pathlib import Path

import pytest
from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in path.parts)
DESIGN = {  # the names that users learn, as the design of the package lists them; baselines that need PyTorch have modules of their own, so that the others import without it
    'media.video': 'probe read_frames iter_frames MediaError Frames VideoInfo',
    'media.audio': 'read_audio',
    'media.candidates': 'frame_quality candidate_frames Candidates',
    'media.render': 'write_jpeg write_gif filmstrip',
    'data.microworld': 'MicroWorld',
    'data.gif_thumbnails': 'load_gif_thumbnails split_videos GIFThumbnails',
    'data.open_images': 'read_open_images OpenImages OpenImagesDataset',
    'data.instagram': 'choose_publishers choose_posts ground_truth popular_topics',
    'data.vine': 'VineSplit read_venue_names read_venue_tree',
    'data.sounds': 'build_sound_set read_esc50 read_labelled_sounds',
    'data.ucf101': 'read_ucf101_split',
    'features.visual': 'backbone',
    'features.acoustic': 'acoustic_descriptor StackedDenoisingAutoencoder',
    'features.text': 'SemanticSpace ParagraphEmbedder',
    'features.completion': 'complete_modalities',
    'features.store': 'extract_features read_features',
    'thumbnail.mkmmd': 'mk_mmd gaussian_kernels optimal_kernel_weights',
    'thumbnail.amuse': 'AMUSE hinge_rank_loss',
    'thumbnail.baselines': 'RandomFrame ASBTV',
    'thumbnail.learned_baselines': 'DeViSE MTLVSEM C2AE',
    'thumbnail.select': 'select_thumbnail Thumbnail',
    'gif.proposals': 'comment_peaks gif_proposals',
    'gif.gevaden': 'GEVADEN gevaden_loss generate_gif',
    'gif.matching': 'closest_disjoint_match',
    'gif.metrics': 'perceptual_matching_error posterior_score ctr_table',
    'gif.baselines': 'BeautThumb Hecate ShotRanker',
    'gif.ranknet': 'RankNet',
    'gif.reseq2seq': 'ReSeq2Seq',
    'gif.select': 'select_gif GIFThumbnail',
    'classify.joint': 'joint_feature',
    'classify.netvlad': 'NetVLAD',
    'classify.fusion': 'AttentionPooling MultimodalClassifier',
    'classify.conv3d': 'Conv3DClassifier',
    'venue.dare': 'DARE similarity_loss sample_pairs',
    'venue.baselines': 'DefaultVenue D3L MDL MTDL TRUMANN AlexNetFusion',
    'training': 'fit save_checkpoint load_checkpoint',
}


def parsed(source: str) -> list[ast.stmt]:
    return ast.parse('\n'.join(line for line in source.split('\n') if not line.startswith(('%', '!')))).body


class Page:
    """A module with the page that it is written on: its public definitions, and the code that a reader of the page
    sees.
    """
    def __init__(self, name: str, path: Path):
        self.module = importlib.import_module(f'microvid_nb.{name}')
        text = Path(self.module.__file__).read_text(encoding='utf-8')
        body, self.lines = ast.parse(text).body, text.split('\n')
        defined = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        self.public = {node.name: node for node in defined if node.name in getattr(self.module, '__all__', [])}
        self.constants = [node for node in body if isinstance(node, ast.Assign)]
        self.patched = [(owner, node) for node in defined if (owner := patch_of(node)) in self.public]
        cells = [
            ''.join(cell['source'])
            for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
            if cell['cell_type'] == 'code'
        ]
        visible = [
            node
            for source in cells
            if not re.search(r'^#\| *(hide|default_exp|export)', source, re.M)
            for node in parsed(source)
        ]
        nodes = [node for tree in visible for node in ast.walk(tree)]
        self.names, self.attributes = (
            {node.id for node in nodes if isinstance(node, ast.Name)},
            {node.attr for node in nodes if isinstance(node, ast.Attribute)},
        )
        self.texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        self.displayed = {called(node.value) for node in visible if isinstance(node, ast.Expr)}

    def methods(self):
        """Label, function and definition of the public methods of its classes."""
        inside = [
            (name, each)
            for name, node in self.public.items()
            if isinstance(node, ast.ClassDef)
            for each in node.body
            if isinstance(each, ast.FunctionDef)
        ]
        for owner, node in inside + self.patched:
            if node.name == '__init__' or not node.name.startswith('_'):
                yield (
                    f'{owner}.{node.name}',
                    function_of(inspect.getattr_static(getattr(self.module, owner), node.name)),
                    node,
                )

    def functions(self):
        return [
            (name, function_of(getattr(self.module, name)), node)
            for name, node in self.public.items()
            if isinstance(node, ast.FunctionDef)
        ]

    def makers(self, name: str) -> set[str]:
        """What says that it gives something of a class: functions, classes by their methods, fields of records, and
        tables.
        """
        whole = [(each, node) for each, node in self.public.items()] + [(node.name, node) for _, node in self.patched]
        found = {
            target.id
            for node in self.constants
            for target in node.targets
            if isinstance(target, ast.Name) and name in called_in(node.value)
        }
        for outer, tree in whole:
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.FunctionDef)
                    and node.returns
                    and name in {part.id for part in ast.walk(node.returns) if isinstance(part, ast.Name)}
                ):
                    found |= {node.name, outer} - {name}
                if isinstance(node, ast.AnnAssign) and name in {
                    part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)
                }:
                    found.add(node.target.id)
        return found


def patch_of(node) -> str:
    """The class that a function is patched into."""
    if (
        isinstance(node, ast.FunctionDef)
        and any('patch' in ast.unparse(each) for each in node.decorator_list)
        and node.args.args
    ):
        return ast.unparse(node.args.args[0].annotation).split('|')[0].strip()
    return ''


def function_of(found):
    """The function behind a property, a class method or a decorated function."""
    for name in ('fget', 'func', '__func__'):
        found = getattr(found, name, found)
    return inspect.unwrap(found)


def called(node) -> str:
    """What is called in an expression that is nothing but a call."""
    if not isinstance(node, ast.Call): return ''
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')


def called_in(tree) -> set[str]:
    return {called(node) for node in ast.walk(tree)}


def fields(node) -> list[ast.AnnAssign]:
    """The fields of a named tuple or data class."""
    made = isinstance(node, ast.ClassDef) and any(
        word in ast.unparse(each) for word in ('NamedTuple', 'dataclass') for each in node.bases + node.decorator_list
    )
    return [each for each in node.body if isinstance(each, ast.AnnAssign)] if made else []


def is_command(node) -> bool:
    return any(ast.unparse(each).startswith('app.command') for each in node.decorator_list)


def is_shown(page: Page, node) -> bool:
    """Whether a visible cell uses a name. A command counts where it is run by its name, as in `run('gif', clip)`; a
    record also where what makes it is used, and it is displayed or one of its parts is read.
    """
    if is_command(node): return node.name in page.texts
    if node.name in page.names: return True
    parts = {each.target.id for each in fields(node)} | {
        each.name for each in node.body if isinstance(node, ast.ClassDef) and isinstance(each, ast.FunctionDef)
    }
    makers = page.makers(node.name) & (page.names | page.attributes) if isinstance(node, ast.ClassDef) else set()
    return bool(makers and (parts & page.attributes or makers & page.displayed))


def undescribed(function, node) -> list[str]:
    """The parameters, and the result, of which nothing is said.

    A comment says it or, for commands, the text that `--help` shows.
    """
    hints = typing.get_type_hints(function, include_extras=True) if is_command(node) else {}
    helped = {
        name
        for name, hint in hints.items()
        if any(getattr(about, 'help', '') for about in getattr(hint, '__metadata__', ()))
    }
    said = docments(function, args_kwargs=True)
    missing = [
        f'({name})'
        for name, about in said.items()
        if name not in ('self', 'cls', 'return') and not about and name not in helped
    ]
    gives = any(
        isinstance(each, (ast.Yield, ast.YieldFrom, ast.Return)) and each.value is not None for each in inside(node)
    )
    return missing + ['->'] * (gives and not node.returns and not said.get('return'))


def inside(function):
    """The nodes of a function without those of functions in it."""
    stack = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)): stack += ast.iter_child_nodes(node)


MODULES = {
    found[1]: path
    for path in PAGES
    if (found := re.search(r'#\| *default_exp +([\w.]+)', path.read_text(encoding='utf-8')))
}


@functools.cache
def page_of(name: str) -> Page:
    return Page(name, MODULES[name])


@pytest.mark.parametrize('name', MODULES)
def test_says_what_it_is(name):
    page = page_of(name)
    labelled = [
        *page.public.items(),
        *((label, node) for label, _, node in page.methods() if node.name not in ('__init__', 'forward')),
    ]
    mute = [
        label
        for label, node in labelled
        if not re.match(r'["\'`(]?[A-Z0-9`\d]\S*( \S+)+', ast.get_docstring(node) or '')
    ]
    assert not mute, f'{name}: no sentence says what {", ".join(mute)} is'


@pytest.mark.parametrize('name', MODULES)
def test_says_what_it_takes_and_gives(name):
    page = page_of(name)
    wrong = [
        f'{each}.{field.target.id}'
        for each, node in page.public.items()
        for field in fields(node)
        if '#' not in page.lines[field.end_lineno - 1]  # or a line of its own before, which docments reads, too
        and not page.lines[field.lineno - 2].lstrip().startswith('# ')
    ]
    wrong += [
        label + part
        for label, function, node in [*page.functions(), *page.methods()]
        for part in undescribed(function, node)
    ]
    assert not wrong, f'{name}: nothing is said of {", ".join(wrong)}'


def raised(function) -> set[str]:
    """The errors that a function raises by itself and that callers are told of."""
    found = {
        ast.unparse(getattr(each.exc, 'func', each.exc))
        for each in inside(function)
        if isinstance(each, ast.Raise) and each.exc
    }
    # of what subclasses give, and of what iteration expects
    return {error for error in found if error.endswith('Error')} - {'NotImplementedError', 'IndexError'}


@pytest.mark.parametrize('name', MODULES)
def test_names_its_errors(name):
    page, silent = page_of(name), []
    own = [
        (owner, each)
        for owner, node in page.public.items()
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, ast.FunctionDef)
    ]
    for owner, node in [
        *own,
        *page.patched,
        *(
            (each, node)
            for each, node in page.public.items()
            if isinstance(node, ast.FunctionDef) and not is_command(node)
        ),
    ]:
        if node.name.startswith('_') and node.name not in ('__init__', '__post_init__'):
            continue
        said = ast.get_docstring(page.public[owner] if node.name.startswith('__') else node) or ''
        silent += [f'{owner}.{node.name}: {error}' for error in raised(node) if error not in said]
    assert not silent, f'{name}: raised without a word in the docstring: {", ".join(silent)}'


@pytest.mark.parametrize('name', MODULES)
def test_is_shown_at_work(name):
    page = page_of(name)
    unseen = [each for each, node in page.public.items() if not is_shown(page, node)]
    assert not unseen, f'the page of {name} has no visible cell with {", ".join(unseen)}'


@pytest.mark.parametrize('name', DESIGN)
def test_has_the_names_that_users_learn(name):
    module = importlib.import_module(f'microvid_nb.{name}')
    assert set(DESIGN[name].split()) <= set(module.__all__)
