"""Imports flow one way: from the rooms below to those above, with no circle; the start is light.

Rooms are the files and folders of the three packages. They stand here as in a house, the lowest
floor first: a module imports from the floors below its own, and from its own room.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import circle_in, import_graph, imports_of, libraries_of, modules_in

FLOORS = [
    ["pm_mined.kernels"],
    [
        "pm_mined.errors",
        "pm_mined.version",
        "pm_mined.display",
        "pm_mined.atomic_file",
        "pm_mined.interrupt",
    ],
    ["pm_mined.notebook", "pm_mined.inputs"],
    ["pm_mined.vocabulary", "pm_mined.json_lines"],
    ["pm_mined.tokenizer"],
    ["pm_mined.maps", "pm_mined.strategies"],
    ["pm_mined.overrides", "pm_mined.bench"],
    ["pm_mined.build", "pm_mined.reports"],
    ["pm_mined.cli"],
    ["pm_mined", "pm_mined.__main__"],  # the package itself: its public names
    ["cmc_runtime.errors"],
    ["cmc_runtime.models", "cmc_runtime.maps", "cmc_runtime.contexts"],
    ["cmc_runtime.fusion"],
    ["cmc_runtime.steering", "cmc_runtime.delta_card"],
    ["cmc_runtime.delta"],
    ["cmc_runtime.engines", "cmc_runtime.data"],
    ["cmc_runtime.training", "cmc_runtime.evaluation", "cmc_runtime.conversion"],
    ["cmc_runtime.cli"],
    ["cmc_runtime", "cmc_runtime.__main__"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# What the runtime uses of pm_mined besides its kernels: public names, and what is not for users.
SHARED = {
    "pm_mined",
    "pm_mined.atomic_file",
    "pm_mined.errors",
    "pm_mined.inputs",
    "pm_mined.interrupt",
    "pm_mined.json_lines",
    "pm_mined.maps.ends",
    "pm_mined.maps.verify",
    "pm_mined.notebook",
    "pm_mined.tokenizer.encoders.libraries",
    "pm_mined.tokenizer.hub",
    "pm_mined.tokenizer.errors_of_libraries",
    "pm_mined.tokenizer.llama_cpp_fields",
    "pm_mined.tokenizer.places",
    "pm_mined.tokenizer.readers.gguf_header",
    "pm_mined.tokenizer.special_tokens",
}
SHARED_BY_COMMANDS = {"pm_mined.cli.output", "pm_mined.cli.shell"}

HEAVY = ("numba", "pyarrow", "torch", "transformers", "pandas", "gguf", "huggingface_hub")
WITH_TORCH = ("cross_entropy", "fused_logits", "gumbel")  # how their files' names begin
ROOT = Path(__file__).parents[1]


def room_of(module):
    while module not in FLOOR_OF:
        module = module.rpartition(".")[0]
    return module


def goes_up(importer, imported):
    rooms = room_of(importer), room_of(imported)
    return rooms[0] != rooms[1] and FLOOR_OF[rooms[0]] <= FLOOR_OF[rooms[1]]


def reaches_in(importer, imported):
    """The runtime uses what pm_mined keeps to itself."""
    across = importer.startswith("cmc_runtime") and imported.startswith("pm_mined")
    shared = SHARED | (SHARED_BY_COMMANDS if room_of(importer) == "cmc_runtime.cli" else set())
    return across and imported not in shared and room_of(imported) != "pm_mined.kernels"


def asks_the_oracle(importer, imported):
    return imported.endswith("reference") and not importer.endswith("reference")


def arrows(graph):
    return {(importer, imported) for importer, some in graph.items() for imported in some}


def wrong_arrows(graph):
    rules = goes_up, reaches_in, asks_the_oracle
    return {arrow for arrow in arrows(graph) if any(rule(*arrow) for rule in rules)}


@pytest.fixture(scope="module")
def graph():
    return import_graph(ROOT)


def test_every_module_has_a_room(graph):
    tops = {module for module in graph if module.count(".") <= 1}
    assert tops <= set(FLOOR_OF)
    assert {"pm_mined.kernels.nearest", "pm_mined.tokenizer.readers.tekken"} <= set(graph)


def test_no_arrow_goes_up(graph):
    assert wrong_arrows(graph) == set()


def test_there_is_no_circle(graph):
    assert circle_in(graph) == []


def test_no_page_or_example_asks_the_oracle():
    modules = modules_in(ROOT)
    scripts = [path for folder in ("docs", "examples") for path in (ROOT / folder).glob("*.py")]
    assert scripts
    for path in scripts:
        named = imports_of(path, path.stem, modules)
        assert not any(asks_the_oracle(path.stem, name) for name in named), path


HOUSE = {
    "kernels/reference.py": "",
    "kernels/nearest.py": "import numba",
    "pm_mined/__init__.py": "",
    "pm_mined/errors.py": "",
    "pm_mined/maps/__init__.py": "",
    "pm_mined/maps/file.py": "from pm_mined.errors import MapFileError",
    "pm_mined/strategies/base.py": "from pm_mined.kernels.nearest import nearest",
    "pm_mined/strategies/prefixes.py": "from .base import Options",
    "cmc_runtime/__init__.py": "",
    "cmc_runtime/fusion/gather.py": "import pm_mined",
    "cmc_runtime/cli/show.py": "from pm_mined.cli import output",
    "pm_mined/cli/output.py": "",
}


def build(tmp_path, change):
    for name, text in {**HOUSE, **change}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return import_graph(tmp_path)


def test_a_made_up_house_in_order(tmp_path):
    graph = build(tmp_path, {})
    assert wrong_arrows(graph) == set()
    assert circle_in(graph) == []
    assert graph["cmc_runtime.cli.show"] == {"pm_mined.cli.output"}


@pytest.mark.parametrize(
    "text",
    [
        "from pm_mined.maps.file import load",
        "from .maps.file import load",
        "from .maps import file",
        "import pm_mined.maps.file as file",
        "def later():\n    from .maps import file",
        "if TYPE_CHECKING:\n    from .maps.file import Map",
        "from importlib import import_module\nimport_module('.maps.file', __package__)",
        "import importlib\nimportlib.import_module('.' + {'Map': 'maps.file'}[name], 'pm_mined')",
        "__import__('pm_mined.maps.file')",
        "WHERE = 'pm_mined.maps.file'",
        "import lazy_loader as lazy\nlazy.attach(__name__, submodules={'maps.file'})",
    ],
)
def test_an_arrow_up_is_found(tmp_path, text):
    graph = build(tmp_path, {"pm_mined/errors.py": text})
    assert wrong_arrows(graph) == {("pm_mined.errors", "pm_mined.maps.file")}
    assert set(circle_in(graph)) == {"pm_mined.errors", "pm_mined.maps.file"}


@pytest.mark.parametrize(
    "text", ["from .prefixes import prefixes", "HOW = [import_module, 'prefixes', '.prefixes']"]
)
def test_a_circle_within_a_room_is_found(tmp_path, text):
    graph = build(tmp_path, {"pm_mined/strategies/base.py": text})
    assert wrong_arrows(graph) == set()
    one, other = "pm_mined.strategies.base", "pm_mined.strategies.prefixes"
    assert circle_in(graph) in ([one, other, one], [other, one, other])


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("pm_mined/maps/file.py", "pm_mined.kernels.reference"),
        ("pm_mined/maps/file.py", "pm_mined.strategies.base"),
        ("pm_mined/errors.py", "pm_mined"),
        ("kernels/nearest.py", "pm_mined.errors"),
        ("cmc_runtime/fusion/gather.py", "pm_mined.cli.output"),
        ("cmc_runtime/fusion/gather.py", "pm_mined.maps.file"),
        ("pm_mined/cli/output.py", "cmc_runtime.fusion.gather"),
    ],
)
def test_a_wrong_neighbour_is_found(tmp_path, path, imported):
    graph = build(tmp_path, {path: f"import {imported}"})
    assert [name for _, name in wrong_arrows(graph)] == [imported]


def test_a_stub_is_a_part_of_its_module(tmp_path):
    graph = build(tmp_path, {"pm_mined/__init__.pyi": "from .maps.file import Map as Map"})
    assert graph["pm_mined"] == {"pm_mined.maps.file"}


def libraries_of_folder(folder):
    return {name for path in (ROOT / folder).rglob("*.py") for name in libraries_of(path)}


def test_kernels_import_no_package_of_ours():
    allowed = {*sys.stdlib_module_names, "numba", "numpy", "torch", "triton"}
    assert libraries_of_folder("kernels") <= allowed


def test_only_the_kernels_for_a_gpu_and_their_twins_import_torch():
    for path in (ROOT / "kernels").glob("*.py"):
        uses = {"torch", "triton"} & libraries_of(path)
        assert not uses or path.stem.startswith(WITH_TORCH), path


def test_pm_mined_imports_neither_torch_nor_transformers_but_to_check_against_it():
    for path in (ROOT / "pm_mined").rglob("*.py"):
        uses = {"torch", "transformers"} & libraries_of(path)
        assert not uses or path.name == "auto_tokenizer.py", path


@pytest.mark.parametrize(
    "code",
    ["import pm_mined", "import sys; sys.argv = ['pm-mined', '--help']; import pm_mined.__main__"],
)
def test_the_start_loads_nothing_heavy(code):
    report = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *[name for name in {HEAVY} if name in sys.modules]))
{code}
"""
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_a_build_loads_neither_pandas_nor_torch(tmp_path):
    code = f"""
import sys
from pm_mined import Vocabulary, build_map, load_map
one = Vocabulary.from_tokens([b"a"], [0])
build_map(one, one).save(r"{tmp_path / "map.arrow"}")
assert load_map(r"{tmp_path / "map.arrow"}").dst_id.tolist() == [0]
print([name for name in ("pandas", "torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
