"""Finds in Python source what runs code out of data: pickles, shells, `eval`, loaders that are not safe."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Modules that turn bytes into objects or code, whatever is called of them.
_MODULES = frozenset(
    {
        "pickle",
        "_pickle",
        "cPickle",
        "cloudpickle",
        "dill",
        "joblib",
        "marshal",
        "shelve",
        "jsonpickle",
        "code",
        "codeop",
        "commands",
    }
)
_BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
_CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "pty.spawn": "a shell",
    "yaml.unsafe_load": "builds any object",
    "yaml.full_load": "builds objects",
    "yaml.unsafe_load_all": "builds any object",
    "yaml.full_load_all": "builds objects",
    "asyncio.create_subprocess_shell": "a shell",
    "runpy.run_path": "runs a file",
    "runpy.run_module": "runs a module",
    "torch.jit.load": "runs code",
    "torch.hub.load": "runs code",
    "torch.package.PackageImporter": "runs code",
}
# What passes pickles between processes. `Value`, `Event` and contexts hold no objects.
_PASS_PICKLES = frozenset(
    {"Queue", "SimpleQueue", "JoinableQueue", "Manager", "SyncManager", "Pipe", "Pool", "Listener", "Client"}
)
_YAML_SAFE = ("SafeLoader", "CSafeLoader", "BaseLoader")


def dangerous_calls(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that is found."""
    tree = ast.parse(source)
    names = dict(_imports(tree))
    safe_loaders = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_last(names, base) in _YAML_SAFE for base in node.bases)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in _MODULES:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.lineno, f"from {node.module} import {alias.name}")
                for alias in node.names
                if _forbidden_import(node, alias)
            )
        elif isinstance(node, ast.Attribute) and _is_multiprocessing(names, node.value) and node.attr in _PASS_PICKLES:
            yield node.lineno, f"multiprocessing's {node.attr}"
        elif isinstance(node, ast.Call):
            found = _call(node, names, safe_loaders)
            if found:
                yield node.lineno, found


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Local name -> what it stands for, with dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        # A context of multiprocessing, under whatever name, is as good as the module.
        elif isinstance(node, ast.Assign) and _is_context(node.value):
            yield from ((target.id, "multiprocessing") for target in node.targets if isinstance(target, ast.Name))


def _is_context(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _spelled(node.func).endswith("get_context")


def _forbidden_import(node: ast.ImportFrom, alias: ast.alias) -> bool:
    module = node.module or ""
    if module.split(".")[0] in _MODULES or f"{module}.{alias.name}" in _CALLS:
        return True
    return module.split(".")[0] == "multiprocessing" and alias.name in _PASS_PICKLES | {
        "managers",
        "queues",
        "connection",
    }


def _call(node: ast.Call, names: dict[str, str], safe_loaders: set[str]) -> str:
    name = _full(names, node.func)
    options = {option.arg: option.value for option in node.keywords}
    if name in _BUILTINS or name.removeprefix("builtins.") in _BUILTINS:
        return f"{name}()"
    if name in _CALLS:
        return f"{name}(): {_CALLS[name]}"
    # Under any name: `Popen`, `run` and others take it, and `**options` could hide it.
    if "shell" in options and not _is(options["shell"], False):
        return f"{name}(shell=...)"
    if "allow_pickle" in options and not _is(options["allow_pickle"], False):
        return f"{name}(allow_pickle=...)"
    if name in ("torch.load", "torch.serialization.load") and not _is(options.get("weights_only"), True):
        return "torch.load() without weights_only=True"
    if name in ("yaml.load", "yaml.load_all"):
        loader = options.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        last = _last(names, loader) if loader is not None else ""
        if last not in _YAML_SAFE and last not in safe_loaders:
            return f"{name}() without a safe loader"
    return ""


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_multiprocessing(names: dict[str, str], node: ast.expr) -> bool:
    if isinstance(node, ast.Call):  # multiprocessing.get_context(...).Queue
        node = node.func
    return _full(names, node).split(".")[0] in ("multiprocessing",) or _full(names, node).startswith(
        "torch.multiprocessing"
    )


def _full(names: dict[str, str], node: ast.expr) -> str:
    """A dotted name with the import that it begins with written out: `np.load` is `numpy.load`."""
    first, dot, rest = _spelled(node).partition(".")
    return names.get(first, first) + dot + rest


def _last(names: dict[str, str], node: ast.expr) -> str:
    return _full(names, node).rpartition(".")[2]


def _spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_spelled(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
