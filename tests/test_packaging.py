"""The package can be installed as declared, and importing it costs nothing."""

import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import monai_hyper

ROOT = Path(__file__).resolve().parents[1]


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def _name(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def test_every_requirement_is_pinned_and_torch_comes_first():
    pinned = [_name(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    setup = _setup()
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {_name(line) for text in lists for line in text.split("\n") if line.strip() and "%(" not in line}
    assert pinned[0] == "torch"
    assert required <= set(pinned)


def _imported(source: Path) -> set[str]:
    """First part of the name of every module a file imports."""
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_everything_imported_is_required():
    setup = _setup()
    extras = setup["options.extras_require"]
    used = ("train", "bundle", "onnx", "dicom", "label", "fetch", "text")
    declared = setup["options"]["install_requires"] + "".join(extras[extra] for extra in used)
    declared += "\nmonailabel\nstarlette"  # installed beside its extra; comes with fastapi
    known = {_name(line) for line in declared.splitlines() if line.strip()} | sys.stdlib_module_names | {"monai_hyper"}
    known |= {"pil"} if "pillow" in known else set()
    known |= {name.replace("-", "_") for name in known} | ({"skimage"} if "scikit-image" in known else set())
    for source in (ROOT / "monai_hyper").rglob("*.py"):
        missing = {name for name in _imported(source) if name.lower() not in known} - {"ignite"}
        assert not missing, f"{source.name} imports {missing}, which setup.cfg does not require"


def test_constraints_name_published_versions_only():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line


def test_version_is_declared_once():
    assert _setup()["metadata"]["version"] == "attr: monai_hyper.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", monai_hyper.__version__)


def test_every_folder_with_code_is_a_package():
    for source in (ROOT / "monai_hyper").rglob("*.py"):
        assert (source.parent / "__init__.py").exists(), f"{source.parent} lacks __init__.py"


def test_import_loads_nothing_heavy():
    code = "import sys, monai_hyper; print([m for m in ('torch', 'monai', 'itk', 'highdicom') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"


def test_no_code_names_a_home_or_temporary_folder():
    for path in [ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / "monai_hyper").rglob("*.py")]:
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|mnt)/", path.read_text(encoding="utf-8")), path


def test_bundles_state_the_version_of_the_package():
    for path in (ROOT / "bundles").glob("*/configs/metadata.json"):
        metadata = json.loads(path.read_text(encoding="utf-8"))
        assert metadata["version"] in metadata["changelog"]
        assert metadata["required_packages_version"]["monai_hyper"] == monai_hyper.__version__
