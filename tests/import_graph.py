"""The import graph of the packages: which module names which, by whatever means."""

import ast
from graphlib import CycleError, TopologicalSorter

PACKAGES = {"kernels": "pm_mined.kernels", "pm_mined": "pm_mined", "cmc_runtime": "cmc_runtime"}
BY_STRING = {"import_module", "__import__", "lazy_loader"}


def import_graph(root):
    """For each module of a checkout, the other modules of the checkout that it imports.

    Imports inside functions and those for types only count as all others do: who reads the file
    has to know the module that it names. So do modules named in strings: full names anywhere,
    those relative to the package in a file that imports by string. A stub (`.pyi`) counts as a
    part of its module.
    """
    modules = modules_in(root)
    return {
        name: {found for path in paths for found in imports_of(path, name, modules)} - {name}
        for name, paths in modules.items()
    }


def modules_in(root):
    """The files of each module of a checkout, by the name under which it is imported."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyi"):
                parts = path.relative_to(root / folder).with_suffix("").parts
                inner = parts[:-1] if parts[-1] == "__init__" else parts
                found.setdefault(".".join([package, *inner]), []).append(path)
    return found


def imports_of(path, name, modules):
    """Those of `modules` that a file imports; `name` is that of the file's own module."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    by_string = any(_word(node) in BY_STRING for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from filter(None, (_module_of(n, modules) for n in _imported(node, package)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (n for n in _spelled(node.value, package, by_string) if n in modules)


def circle_in(graph):
    """The modules of one circle, from the first back to itself; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def libraries_of(path):
    """The top-level names of what a file imports, relative imports apart."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    found = [name for node in nodes for name in _imported(node, None)]
    return {name.partition(".")[0] for name in found}


def _imported(node, package):
    """The full names in an import statement; the relative ones only with a package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or (node.level and package is None):
        return []
    start = _above(package, node.level) if node.level else None
    base = ".".join(filter(None, [start, node.module]))
    return [f"{base}.{alias.name}" for alias in node.names]


def _spelled(text, package, by_string):
    """The full names of modules that a string may mean."""
    name = text.lstrip(".")
    above = _above(package, max(len(text) - len(name), 1))
    return [name] * ("." in name) + [f"{above}.{name}"] * by_string


def _above(package, level):
    """The package that a relative import with `level` dots starts from."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1])


def _module_of(name, modules):
    """The module that `name` is, or is in; empty where it is not ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _word(node):
    """The name that a node speaks of."""
    if isinstance(node, ast.alias):
        return node.name.partition(".")[0]
    return getattr(node, "id", getattr(node, "attr", None))
