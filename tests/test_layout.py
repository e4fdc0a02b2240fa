"""Imports go one way: from higher layers to lower ones, never upward, not even inside a function."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = {
    "types": 0, "workers": 0, "data": 1, "transforms": 1, "synthesis": 1, "networks": 2, "inference": 3, "methods": 3,
    "training": 4, "evaluation": 4, "export": 4, "label": 5, "commands": 5, "demo": 5, "cli": 5,
}  # fmt: skip


def part_of(module: str) -> str:
    return module.split(".")[1]


def test_no_module_imports_upward():
    for path in (ROOT / "monai_hyper").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if own == "monai_hyper.__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_hyper."):
                assert LEVELS[part_of(node.module)] <= LEVELS[part_of(own)], f"{own} imports {node.module}"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, monai_hyper; print(sorted({'torch', 'monai', 'itk', 'matplotlib'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
