"""Dependencies point one way: what each room of mmint may import, and that nothing goes round."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmint'
# From the bottom; a room imports from those below it, never from one beside or above it.
LEVELS = (
    ('numerics',),
    ('backends',),
    ('ops',),
    ('conventions', 'layers', 'optim'),
    ('analysis', 'conversion', 'parallel'),
    ('openmmlab',),
)
OPENMMLAB = {'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg'}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts}


def imports(module, when_loaded=False):
    """The modules that a module imports by name, or only those that it needs to be loaded."""
    path = MODULES[module]
    base = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]

    def visit(node):
        if when_loaded and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = '.'.join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f'{origin}.{alias.name}'
                yield inner if inner in MODULES else origin
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return set(visit(ast.parse(path.read_text())))


def room(module):
    """The folder or file of mmint that a module belongs to."""
    return module.split('.')[1] if '.' in module else ''


def arrows():
    """Who imports whom, over the borders of rooms, type checking aside."""
    for module in MODULES:
        for other in imports(module):
            if other.split('.')[0] == 'mmint' and room(module) != room(other):
                yield module, other


def test_every_room_has_a_level():
    rooms = {room(module) for module in MODULES} - {'', 'version'}
    assert rooms <= {name for level in LEVELS for name in level}


def test_rooms_import_from_those_below():
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    wrong = [
        f'{module} imports {other}'
        for module, other in arrows()
        if module != 'mmint' and room(other) != 'version'
        if level[room(module)] <= level.get(room(other), len(LEVELS))
    ]
    assert not wrong


def test_no_modules_import_each_other():
    graph = {module: imports(module, when_loaded=True) & MODULES.keys() for module in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f'these import each other: {" <- ".join(error.args[1])}')


def test_the_reference_is_no_library():
    users = {
        module
        for module in MODULES
        if any(other.startswith('mmint.backends.reference') for other in imports(module))
    }
    assert {m for m in users if not m.startswith('mmint.backends.reference')} == {'mmint.backends'}


@pytest.mark.parametrize('backend', ['reference', 'cpu', 'cuda'])
def test_backends_do_not_know_each_other(backend):
    others = {'reference', 'cpu', 'cuda'} - {backend}
    for module in MODULES:
        if module.startswith(f'mmint.backends.{backend}'):
            known = {other.split('.')[2] for other in imports(module) if other.count('.') >= 2}
            assert not known & others, module


def test_only_the_wing_for_openmmlab_imports_it():
    users = {m for m in MODULES if OPENMMLAB & {other.split('.')[0] for other in imports(m)}}
    assert {room(module) for module in users} <= {'openmmlab'}


def test_files_stay_short():
    long = {module: n for module, path in MODULES.items()
            if (n := len(path.read_text().splitlines())) >= 400}  # fmt: skip
    assert not long
