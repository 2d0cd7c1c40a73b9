"""Imports point down, the model stands alone, and nothing here can run code found in data."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("runners", "parity.trace", "parity.diff", "parity.judge", "parity.report", "parity.cli")  # lowest first
MODEL = "runners.ltx23"
MODEL_MAY_IMPORT = {"torch", "numpy", "einops", "av", "PIL", "transformers"} | sys.stdlib_module_names
MODEL_MAY_USE = (
    *("runners.errors", "runners.tap", "runners.real_tokens", "runners.clock", "runners.request"),
    MODEL,
)
OFFICIAL = ("ltx_core", "ltx_pipelines")
TRIAL = "parity.trial"  # experiments: may look down on everything below the command line, and only that may call them
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

Source = tuple[str, str]  # dotted module name, text


def sources() -> list[Source]:
    found = []
    for package in ("parity", "runners"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, path.read_text(encoding="utf-8")))
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imported(text: str) -> Iterator[str]:
    """Every module that a source imports: at its top, inside functions, or by a name given to import_module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            assert node.module is not None
            # `from parity import cli` imports parity.cli
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            target = node.args[0]
            if isinstance(target, ast.Constant):
                yield str(target.value)


def layer_of(name: str) -> int | None:
    if within(name, TRIAL):
        return LAYERS.index("parity.report")
    ranks = [rank for rank, layer in enumerate(LAYERS) if within(name, layer)]
    return ranks[0] if ranks else None


def upward(name: str, text: str) -> list[str]:
    """Imports that point up, or at experiments."""
    own = layer_of(name)
    found = []
    for target in imported(text):
        layer = layer_of(target)
        if own is not None and layer is not None and layer > own:
            found.append(f"{name} imports {target}")
        if within(target, TRIAL) and not (within(name, "parity.cli") or within(name, TRIAL)):
            found.append(f"{name} imports {target}, an experiment")
    return found


def beyond_the_model(name: str, text: str) -> list[str]:
    """What the model imports beyond tensors, pictures, text and the few modules it shares."""
    if not within(name, MODEL):
        return []
    return [
        f"{name} imports {target}"
        for target in imported(text)
        if target.split(".")[0] not in MODEL_MAY_IMPORT and not any(within(target, module) for module in MODEL_MAY_USE)
    ]


def official_outside(name: str, text: str) -> list[str]:
    """Imports of the official packages, or of the other port, outside their adapters."""
    found = []
    for target in imported(text):
        if target.split(".")[0] in OFFICIAL and not name.startswith("runners.official"):
            found.append(f"{name} imports {target}")
        if target.split(".")[0] == "diffusers" and not name.startswith("runners.diffusers"):
            found.append(f"{name} imports {target}")
    return found


def unsafe(name: str, text: str) -> list[str]:
    """Ways to run code that came as data."""
    found = [f"{name} imports {target}" for target in imported(text) if target.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in UNSAFE_CALLS:
            found.append(f"{name} calls {ast.unparse(node.func)}")
        for keyword in node.keywords:
            switched_on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and switched_on:
                found.append(f"{name} passes {keyword.arg}=True")
    return found


RULES = (upward, beyond_the_model, official_outside, unsafe)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: object) -> None:
    found = sources()
    assert len(found) > 80 and {"runners.ltx23.transformer", "parity.trace.bundle"} <= {name for name, _ in found}
    assert callable(rule)
    assert [violation for name, text in found for violation in rule(name, text)] == []


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        ("runners.case", "from parity.trace import bundle", "runners.case imports parity.trace.bundle"),
        ("runners.case", "def f():\n    import parity.cli.app", "runners.case imports parity.cli.app"),
        ("parity.trace.record", "from parity.diff.runs import x", "parity.trace.record imports parity.diff.runs.x"),
        ("parity.diff.runs", "from parity import judge", "parity.diff.runs imports parity.judge"),
        ("parity.judge.perf", "import parity.report.tables", "parity.judge.perf imports parity.report.tables"),
        ("parity.report.tables", "from parity.cli import app", "parity.report.tables imports parity.cli.app"),
        ("parity.trial.run", "from parity.cli import app", "parity.trial.run imports parity.cli.app"),
        ("parity.report.tables", "import parity.trial.x", "parity.report.tables imports parity.trial.x, an experiment"),
        ("runners.native", "import_module('parity.diff')", "runners.native imports parity.diff"),
        ("runners.ltx23.block", "import safetensors", "runners.ltx23.block imports safetensors"),
        ("runners.ltx23.block", "from runners.case import Case", "runners.ltx23.block imports runners.case.Case"),
        ("runners.ltx23.block", "import torchvision.io", "runners.ltx23.block imports torchvision.io"),
        ("runners.native", "import ltx_core", "runners.native imports ltx_core"),
        ("parity.cli.run", "x.import_module('ltx_pipelines.utils')", "parity.cli.run imports ltx_pipelines.utils"),
        ("runners.native", "from diffusers import x", "runners.native imports diffusers.x"),
        ("runners.weights", "import pickle", "runners.weights imports pickle"),
        ("runners.weights", "torch.load(path)", "runners.weights calls torch.load"),
        ("runners.weights", "eval('1')", "runners.weights calls eval"),
        ("runners.weights", "f(trust_remote_code=True)", "runners.weights passes trust_remote_code=True"),
    ],
)
def test_a_module_that_breaks_a_rule_is_caught(name: str, text: str, violation: str) -> None:
    assert [found for rule in RULES for found in rule(name, text)] == [violation]


def test_what_looks_alike_is_allowed() -> None:
    innocent = "import re\nmodel.eval()\nre.compile('x')\njson.load(f)\nf(trust_remote_code=False)\nimport torch.nn"
    assert [found for rule in RULES for found in rule("runners.ltx23.block", innocent)] == []
