"""Mutation testing of the core: change one thing, run the tests, expect them to fail.

    .venv/bin/python -m tests.tools.mutate [--jobs N] [--machine] [--only N,N] MODULE [MODULE ...]

MODULE is a name in edge/core (`ledger`). Each mutant lives in a forked process only: its module is compiled from the
changed syntax tree and put in place before anything imports it; no file is touched. `--machine` also runs the
Hypothesis machine over what the unit tests let through. Prints the survivors; exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import hypothesis.stateful  # noqa: F401
import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "edge" / "core"
TIMEOUT_S = 90
UNIT = [
    "delivery",
    "holes",
    "rules",
    "traps",
    "acks",
    "session",
    "ledger",
    "ring",
    "messages",
    "packet",
    "timebase",
    "cuts",
    "link",
]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


class _Mutator(ast.NodeTransformer):
    """Applies the change with number `wanted`; counts all (`wanted` -1)."""

    def __init__(self, wanted: int = -1) -> None:
        self.wanted = wanted
        self.found: list[str] = []

    def _is_wanted(self, node: ast.AST, what: str) -> bool:
        self.found.append(f"{getattr(node, 'lineno', 0)}: {what}")
        return len(self.found) - 1 == self.wanted

    # --- what stays as it is: annotations, decorators, docstrings, texts of errors ---

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.defaults = [self.visit(default) for default in node.defaults]
        node.kw_defaults = [default and self.visit(default) for default in node.kw_defaults]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args = self.visit(node.args)
        node.body = self._block(node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = self._block(node.body)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST | None:
        return ast.copy_location(ast.Pass(), node) if self._is_wanted(node, "raise -> pass") else node

    # --- what changes ---

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [statement for old in body for statement in self._statement(old)]

    def _statement(self, node: ast.stmt) -> Iterator[ast.stmt]:
        is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_doc or isinstance(node, ast.Import | ast.ImportFrom):
            yield node
            return
        droppable = isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete)
        if droppable and self._is_wanted(node, f"drop: {ast.unparse(node)}"):
            yield ast.copy_location(ast.Pass(), node)
            return
        yield self.visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        for value in (True, False):
            if self._is_wanted(node, f"if {ast.unparse(node.test)} -> if {value}"):
                node.test = ast.copy_location(ast.Constant(value), node.test)
                return node
        node.test = self.visit(node.test)
        node.body, node.orelse = self._block(node.body), self._block(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = self.visit(node.iter)
        node.body = self._block(node.body)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        node.test = self.visit(node.test)
        node.body = self._block(node.body)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if node.value is None:
            if self._is_wanted(node, "return -> go on"):
                return ast.copy_location(ast.Pass(), node)
            return node
        node.value = self.visit(node.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for index, operator in enumerate(node.ops):
            if self._is_wanted(node, f"{ast.unparse(node)}: {type(operator).__name__} swapped"):
                node.ops[index] = SWAPS[type(operator)]()  # type: ignore[call-overload]
                return node
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if type(node.op) in SWAPS and self._is_wanted(node, f"{ast.unparse(node)}: {type(node.op).__name__} swapped"):
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
            return node
        return self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if self._is_wanted(node, f"{ast.unparse(node)}: {type(node.op).__name__} swapped"):
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
            return node
        node.value = self.visit(node.value)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        if self._is_wanted(node, f"{ast.unparse(node)}: {type(node.op).__name__} swapped"):
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
            return node
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not) and self._is_wanted(node, f"{ast.unparse(node)}: not dropped"):
            return node.operand
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is_wanted(node, f"{node.value} -> {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int | float) and self._is_wanted(node, f"{node.value} -> {node.value + 1}"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in NAMES and self._is_wanted(node, f"{node.id} -> {NAMES[node.id]}"):
            return ast.copy_location(ast.Name(NAMES[node.id], node.ctx), node)
        return node


def mutants(module: str) -> list[str]:
    """What can be changed in `module`, in order."""
    counter = _Mutator()
    counter.visit(_tree(module))
    return counter.found


def _tree(module: str) -> ast.Module:
    return ast.parse((CORE / f"{module}.py").read_text())


class _Put:
    """An importer that gives the changed module, and leaves all others to those behind it."""

    def __init__(self, module: str, wanted: int) -> None:
        self.name = f"edge.core.{module}"
        self.path = CORE / f"{module}.py"
        mutator = _Mutator(wanted)
        tree = ast.fix_missing_locations(mutator.visit(copy.deepcopy(_tree(module))))
        for body in ast.walk(tree):  # a body may have lost its last statement
            if getattr(body, "body", None) == []:
                body.body = [ast.Pass()]  # type: ignore[attr-defined]
        self.code = compile(tree, str(self.path), "exec")

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != self.name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(self.path))  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(self.code, module.__dict__)


def survives(module: str, wanted: int, files: list[str], deselect: str = "") -> bool:
    """Run `files` against one mutant in a fork; a hang counts as caught."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        signal.alarm(TIMEOUT_S)
        code = 1
        try:
            sys.meta_path.insert(0, _Put(module, wanted))  # type: ignore[arg-type]
            options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--assert=plain"]
            code = int(pytest.main([*options, *files, *(["-k", deselect] if deselect else [])]))
        finally:
            os._exit(0 if code == 0 else 1)
    _, status = os.waitpid(child, 0)
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of edge/core")
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--machine", action="store_true", help="run the Hypothesis machine over the survivors, too")
    parser.add_argument("--only", help="numbers of mutants, separated by commas")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    units = [str(ROOT / "tests" / "core" / f"test_{name}.py") for name in UNIT]
    machine = [str(ROOT / "tests" / "core" / "test_machine.py")]
    total = lost = 0
    for module in options.modules:
        names = mutants(module)
        numbers = [int(n) for n in options.only.split(",")] if options.only else list(range(len(names)))
        own = [unit for unit in units if unit.endswith(f"test_{module}.py")]
        files = own + [unit for unit in units if unit not in own]

        def run(number: int, module: str = module, files: list[str] = files) -> bool:
            if not survives(module, number, files):
                return False
            return not options.machine or survives(module, number, machine, "keeps_its_promise")

        if not survives(module, -1, files):
            sys.exit(f"the tests fail without any change to {module}")
        began = time.monotonic()
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(run, numbers))
        alive = [number for number, survived in zip(numbers, results, strict=True) if survived]
        total, lost = total + len(numbers), lost + len(alive)
        took = time.monotonic() - began
        print(f"{module}: {len(numbers)} mutants, {len(alive)} survive ({took:.0f} s)", flush=True)
        for number in alive:
            print(f"  {number} {module}.py:{names[number]}", flush=True)
    print(f"all: {total} mutants, {total - lost} killed, {lost} survive")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
