"""Imports point down, the model stands alone, and nothing here can run code found in data."""

import ast
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (  # lowest first; an import points to the same or a lower one
    "runners",
    *("parity.taps", "parity.trace", "parity.runs", "parity.diff", "parity.defects"),
    *("parity.explain", "parity.identify", "parity.isolate", "parity.judge"),
    *(
        "parity.calibrate",
        "parity.admit",
        "parity.fleet",
        "parity.report",
        "parity.suite",
        "parity.matrix",
        "parity.cli",
        "parity.__main__",
        "parity.pytest_plugin",
    ),
    "bench",
)
# What breaks a rule, by how it begins, and why it may. One that is needed no more fails.
EXCEPTIONS = {
    "bench.vocoder imports ltx_core.model.audio_vae": "runs the official vocoder alone, which no adapter does",
}
# Who may change files, and why: parts of a run or a checkpoint in a new folder that nobody else has, and the few who
# put such folders and files into their place. Everything else is written by `parity.trace.atomic`.
MAY_CHANGE_FILES = {
    "runners.partial_folder": "new folders, and their way into their place",
    "parity.trace.atomic": "the writer",
    "parity.trace.journal": "a new run's journal",
    "parity.trace.trace_writer": "a new run's trace",
    "parity.trace.full_tensors": "a new run's tensors, through the writer",
    "parity.runs.outputs": "a new run's outputs, through the writer",
    "parity.runs.child": "the request to a child, in a new folder",
    "parity.runs.execute": "what a crashed run had recorded, in a new folder",
    "parity.runs.golden": "the golden's own folder, after its checks",
    "parity.runs.golden_folder": "the golden's own folder, after its checks",
    "parity.runs.store": "a copy, through the writer",
    "parity.report.ending": "a traceback, in a new temporary file",
    "parity.fleet.row_process_main": "the result of a row, in a folder that goes with it",
    "parity.judge.limit_table": "removes files of samples by their hashed names",
    "runners.forge": "a new checkpoint",
    "runners.sglang": "the checkpoint in SGLang's layout, in a temporary folder",
    "bench.fleet": "matrix files in a temporary folder",
    "bench.identify_stress": "a copy in a temporary folder",
}
CHANGES_FILES = {
    *("write_text", "write_bytes", "save_file", "touch", "mkstemp", "mkdtemp", "copyfile", "copytree", "copy2"),
    *("unlink", "rmtree", "rmdir", "rename", "symlink_to", "hardlink_to", "move", "chmod", "chown"),
}
IN_MEMORY = {"wave.open", "av.open"}  # and the clip of a new run
# Imported inside a function: when a GPU is there, the other form of the module, which names it; and the command line,
# once somebody is there who can say that it cannot be imported.
AT_RUN_TIME = {
    ("parity.cli.main", "parity.cli.app"),
    ("parity.trace.sketch", "parity.trace.sketch_triton"),
    ("runners.forge.counter", "runners.forge.counter_triton"),
    ("runners.ltx23.fast.fused", "runners.ltx23.fast.fused_triton"),
}
MODEL = "runners.ltx23"
MODEL_MAY_IMPORT = {"torch", "numpy", "einops", "av", "PIL", "transformers", "triton"} | sys.stdlib_module_names
MODEL_MAY_USE = (
    *("runners.errors", "runners.tap", "runners.real_tokens", "runners.clock", "runners.request", "runners.releases"),
    *("runners.model_files", "runners.files", "runners.stages", "runners.laid_out"),
    MODEL,
)
OFFICIAL = ("ltx_core", "ltx_pipelines")
ENGINES = {
    "diffusers": "runners.diffusers",
    "sglang": "runners.sglang",
    **dict.fromkeys(("comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes"), "runners.comfyui"),
}  # package or module of an engine -> the one adapter that may import it
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "np.load",
    "numpy.load",
    "os.system",
    "yaml.load",
}
# The terminal; what is said before there is one, or after; and a child, whose every word is read as a stranger's.
MAY_PRINT = (
    *("parity.report.terminal", "parity.cli.main", "parity.cli.watcher", "parity.runs.child_main"),
    "parity.fleet.row_process_main",
)
PRINTING_CALLS = {"print", "typer.echo", "typer.secho", "os.write", "traceback.print_exc", "traceback.print_exception"}

Source = tuple[str, str]  # dotted module name, text
Rule = Callable[[str, str], list[str]]


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for package in ("parity", "runners", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, path.read_text(encoding="utf-8")))
    return tuple(found)


@cache
def nodes_of(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(text)))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@cache
def imported(text: str) -> tuple[str, ...]:
    """Every module that a source imports: at its top, inside functions, or by a name given to import_module."""
    found: list[str] = []
    for node in nodes_of(text):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            assert node.module is not None
            # `from parity import cli` imports parity.cli
            found += (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            target = node.args[0]
            if isinstance(target, ast.Constant):
                found.append(str(target.value))
    return tuple(found)


def layer_of(name: str) -> int | None:
    ranks = [rank for rank, layer in enumerate(LAYERS) if within(name, layer)]
    return ranks[0] if ranks else None


def upward(name: str, text: str) -> list[str]:
    """Imports that point up."""
    own = layer_of(name)
    return [
        f"{name} imports {target}"
        for target in imported(text)
        if own is not None and (layer := layer_of(target)) is not None and layer > own
    ]


def beyond_the_model(name: str, text: str) -> list[str]:
    """Imports of the model beyond tensors, pictures, text and the few modules it shares."""
    if not within(name, MODEL):
        return []
    return [
        f"{name} imports {target}"
        for target in imported(text)
        if target.split(".")[0] not in MODEL_MAY_IMPORT and not any(within(target, module) for module in MODEL_MAY_USE)
    ]


def official_outside(name: str, text: str) -> list[str]:
    """Imports of the official packages, or of another engine, outside their adapters."""
    found = []
    for target in imported(text):
        if target.split(".")[0] in OFFICIAL and not within(name, "runners.official"):
            found.append(f"{name} imports {target}")
        adapter = ENGINES.get(target.split(".")[0])
        if adapter is not None and not within(name, adapter):
            found.append(f"{name} imports {target}")
    return found


def unsafe(name: str, text: str) -> list[str]:
    """Ways to run code that came as data."""
    found = [f"{name} imports {target}" for target in imported(text) if target.split(".")[0] in UNSAFE_MODULES]
    for node in nodes_of(text):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in UNSAFE_CALLS:
            found.append(f"{name} calls {ast.unparse(node.func)}")
        for keyword in node.keywords:
            switched_on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and switched_on:
                found.append(f"{name} passes {keyword.arg}=True")
        refused = any(
            keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) == "False" for keyword in node.keywords
        )
        if ast.unparse(node.func).endswith(".from_pretrained") and not refused:
            found.append(f"{name} calls {ast.unparse(node.func)} without trust_remote_code=False")
    return found


def printing(name: str, text: str) -> list[str]:
    """Ways to print past the one place that makes text from outside printable."""
    if within(name, "bench") or name in MAY_PRINT:
        return []
    consoles = ("rich.console.Console", "rich.print", "typer.echo", "typer.secho", "click")
    found = [f"{name} imports {target}" for target in imported(text) if target.startswith(consoles)]
    for node in nodes_of(text):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING_CALLS:
            found.append(f"{name} calls {ast.unparse(node.func)}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            found.append(f"{name} uses {ast.unparse(node)}")
    return found


def changes_files(name: str, text: str) -> list[str]:
    """Files that are written, moved or removed past the one writer."""
    if any(within(name, module) for module in MAY_CHANGE_FILES):
        return []
    found = []
    for node in nodes_of(text):
        if not isinstance(node, ast.Call):
            continue
        whole = ast.unparse(node.func)
        called = whole.rpartition(".")[2]
        given = [*node.args, *(word.value for word in node.keywords)]
        modes = [str(one.value) for one in given if isinstance(one, ast.Constant)]
        to_write = called == "open" and any(re.fullmatch("[wax][bt+]*", mode) for mode in modes)
        if called in CHANGES_FILES or (to_write and whole not in IN_MEMORY):
            found.append(f"{name} calls {called}")
    return found


RULES: tuple[Rule, ...] = (upward, beyond_the_model, official_outside, unsafe, printing, changes_files)


@cache
def broken_by(rule: Rule) -> tuple[str, ...]:
    return tuple(violation for name, text in sources() for violation in rule(name, text))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    found = sources()
    assert len(found) > 80 and {"runners.ltx23.transformer", "parity.runs.folder"} <= {name for name, _ in found}
    broken = broken_by(rule)
    assert [violation for violation in broken if not violation.startswith(tuple(EXCEPTIONS))] == []


def test_every_exception_is_needed() -> None:
    broken = [violation for rule in RULES for violation in broken_by(rule)]
    assert [start for start in EXCEPTIONS if not any(violation.startswith(start) for violation in broken)] == []


def needs(found: Sequence[Source]) -> dict[str, set[str]]:
    """Every module with the modules of this project that it imports, at its top or inside functions."""
    names = {name for name, _ in found}
    needed = {}
    for name, text in found:
        targets = (target if target in names else target.rpartition(".")[0] for target in imported(text))
        needed[name] = {target for target in targets if target in names}
    return needed


def test_no_module_imports_itself_by_way_of_others() -> None:
    needed = needs(sources())
    assert all(target in needed[name] for name, target in AT_RUN_TIME)
    for name, target in AT_RUN_TIME:
        needed[name].remove(target)
    list(TopologicalSorter(needed).static_order())


def test_a_circle_is_caught() -> None:
    circle = [("parity.a", "from parity.b import x"), ("parity.b", "def f():\n    from parity import a")]
    with pytest.raises(CycleError):
        list(TopologicalSorter(needs(circle)).static_order())


def test_every_module_has_a_layer() -> None:
    assert [name for name, _ in sources() if layer_of(name) is None] == ["parity"]


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        ("runners.case", "from parity.runs import folder", "runners.case imports parity.runs.folder"),
        ("runners.case", "def f():\n    import parity.cli.app", "runners.case imports parity.cli.app"),
        ("parity.runs.execute", "from parity.diff.runs import x", "parity.runs.execute imports parity.diff.runs.x"),
        ("parity.diff.runs", "from parity import judge", "parity.diff.runs imports parity.judge"),
        ("parity.judge.perf", "import parity.report.tables", "parity.judge.perf imports parity.report.tables"),
        ("parity.report.tables", "from parity.cli import app", "parity.report.tables imports parity.cli.app"),
        ("parity.taps.group", "import parity.trace.file", "parity.taps.group imports parity.trace.file"),
        ("parity.diff.runs", "import parity.explain.x", "parity.diff.runs imports parity.explain.x"),
        ("parity.defects.text", "import parity.identify.x", "parity.defects.text imports parity.identify.x"),
        ("parity.judge.limit", "import parity.calibrate.x", "parity.judge.limit imports parity.calibrate.x"),
        ("parity.cli.run", "from parity import pytest_plugin", "parity.cli.run imports parity.pytest_plugin"),
        ("parity.report.page", "import bench.gpu", "parity.report.page imports bench.gpu"),
        ("runners.native.runner", "import_module('parity.diff')", "runners.native.runner imports parity.diff"),
        ("runners.ltx23.block", "import safetensors", "runners.ltx23.block imports safetensors"),
        ("runners.ltx23.block", "from runners.case import Case", "runners.ltx23.block imports runners.case.Case"),
        ("runners.ltx23.block", "import torchvision.io", "runners.ltx23.block imports torchvision.io"),
        ("runners.native.runner", "import ltx_core", "runners.native.runner imports ltx_core"),
        ("parity.cli.run", "x.import_module('ltx_pipelines.utils')", "parity.cli.run imports ltx_pipelines.utils"),
        ("runners.native.runner", "from diffusers import x", "runners.native.runner imports diffusers.x"),
        ("runners.catalogue", "import sglang.srt", "runners.catalogue imports sglang.srt"),
        ("runners.loaded", "import_module('comfy.sd')", "runners.loaded imports comfy.sd"),
        ("runners.weights", "import pickle", "runners.weights imports pickle"),
        ("runners.weights", "torch.load(path)", "runners.weights calls torch.load"),
        ("runners.weights", "eval('1')", "runners.weights calls eval"),
        ("runners.weights", "f(trust_remote_code=True)", "runners.weights passes trust_remote_code=True"),
        (
            "runners.weights",
            "a.B.from_pretrained(folder, trust_remote_code=trust)",
            "runners.weights calls a.B.from_pretrained without trust_remote_code=False",
        ),
        ("parity.cli.gate", "print(text)", "parity.cli.gate calls print"),
        ("parity.cli.gate", "typer.echo(text)", "parity.cli.gate calls typer.echo"),
        ("parity.report.page", "from rich.console import Console", "parity.report.page imports rich.console.Console"),
        ("runners.native.runner", "sys.stderr.write(text)", "runners.native.runner uses sys.stderr"),
    ],
)
def test_a_module_that_breaks_a_rule_is_caught(name: str, text: str, violation: str) -> None:
    assert [found for rule in RULES for found in rule(name, text)] == [violation]


@pytest.mark.parametrize(
    "text",
    [
        'Path("x").write_text("y")',
        'open("x", "w")',
        'path.open(mode="ab")',
        'path.open("xb")',
        "shutil.rmtree(path)",
        "save_file(tensors, path)",
        "path.rename(other)",
    ],
)
def test_a_module_that_changes_files_past_the_writer_is_caught(text: str) -> None:
    [found] = changes_files("parity.cli.run", text)
    assert found.startswith("parity.cli.run calls ")
    assert changes_files("parity.trace.atomic", text) == []
    assert changes_files("parity.cli.run", 'path.open("rb"); text.replace("a", "b"); model.copy()') == []


def test_whoever_may_change_files_does() -> None:
    found = dict(sources())
    idle = []
    for module in MAY_CHANGE_FILES:
        texts = [text for name, text in found.items() if within(name, module)]
        if not any(changes_files("elsewhere", text) for text in texts):
            idle.append(module)
    assert idle == []


def test_what_looks_alike_is_allowed() -> None:
    innocent = "import re\nmodel.eval()\nre.compile('x')\njson.load(f)\nf(trust_remote_code=False)\nimport torch.nn"
    assert [found for rule in RULES for found in rule("runners.ltx23.block", innocent)] == []
