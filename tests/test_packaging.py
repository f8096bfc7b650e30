"""The tree as a package: what the wheel holds, who may import whom, what a light import costs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]

# Folder -> the mnq packages that its code may import. A new top-level folder goes in here.
MAY_IMPORT = {
    "ops": {"ops"},
    "models": {"ops", "models"},
    "toolchain": {"ops", "models", "runtime", "toolchain"},
    "runtime": {"ops", "models", "runtime"},
    "cli": {"ops", "models", "toolchain", "runtime", "cli"},
}

# Imported on machines that have the base install only: no module of an extra may come along.
LIGHT = ["mnq.ops.errors", "mnq.runtime"]
LIGHT += [f"mnq.cli.{name}" for name in ("main", "verify", "eval", "bench", "doctor")]
EXTRAS_MODULES = {
    "matplotlib",
    "nncf",
    "onnx_graphsurgeon",
    "onnxruntime",
    "openvino",
    "safetensors",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchvision",
}


def package_files() -> list[Path]:
    """Every file of the package folders that belongs to the project, relative to the root."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run([*git, *MAY_IMPORT], capture_output=True, text=True)
    if listing.returncode == 0:
        found = [Path(name) for name in listing.stdout.split("\0") if name]
    else:  # no git here: an unpacked archive
        found = [path.relative_to(ROOT) for name in MAY_IMPORT for path in (ROOT / name).rglob("*")]
    return sorted(
        path for path in found if (ROOT / path).is_file() and "__pycache__" not in path.parts
    )


def package_sources() -> list[Path]:
    return [path for path in package_files() if path.suffix == ".py"]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import in a file: at the top, in functions, by string."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots, base = "." * node.level, node.module or ""
            yield from ((node.lineno, f"{dots}{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(
            r"\b(import_module|__import__|files)$", ast.unparse(node.func)
        ):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def built_wheel(out: Path, *options: str, **environment: str) -> zipfile.ZipFile:
    """The wheel of this tree, built by the backend that is installed here."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), *options, str(ROOT)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel without the native library."""
    with built_wheel(tmp_path_factory.mktemp("wheel"), MNQ_NO_OPS="1") as archive:
        yield archive


def contents(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def wheel_files() -> set[str]:
    """What belongs into the wheel: all files but the sources of the native library."""
    paths = [path for path in package_files() if path.parts[:2] != ("ops", "native")]
    return {f"mnq/{path.as_posix()}" for path in paths if path.name != "kernel.h"}


def test_wheel_holds_every_package_file_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert contents(wheel) == wheel_files()


def test_wheel_without_the_library_is_pure_and_carries_the_license(wheel: zipfile.ZipFile) -> None:
    version = PYPROJECT["project"]["version"]
    assert Path(str(wheel.filename)).name == f"mnq-{version}-py3-none-any.whl"
    assert f"mnq-{version}.dist-info/licenses/LICENSE" in wheel.namelist()


@pytest.mark.native
@pytest.mark.slow
def test_wheel_with_the_library_is_for_any_python_of_the_platform(tmp_path: Path) -> None:
    """Built where `make native` builds, so that nothing is compiled that has not changed."""
    with built_wheel(tmp_path) as wheel:
        assert contents(wheel) == wheel_files() | {"mnq/ops/libmnq_ops.so"}
        assert re.fullmatch(r"mnq-[\d.]+-py3-none-linux_\w+\.whl", Path(str(wheel.filename)).name)


def test_wheel_of_a_machine_without_a_compiler_says_why(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("missing program: cmake")
    folder = f"--config-settings=build-dir={tmp_path / 'build'}"
    with built_wheel(tmp_path, folder, CXX="/nowhere/c++") as wheel:
        assert contents(wheel) == wheel_files() | {"mnq/ops/no_library.txt"}
        reason = wheel.read("mnq/ops/no_library.txt").decode()
    assert reason.startswith("expected a C++ compiler, found none; install one")


def test_pyproject_maps_every_package_folder() -> None:
    mapped = PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"]
    assert mapped == {f"mnq/{folder}": folder for folder in MAY_IMPORT}


def test_extras_keep_the_two_runtimes_apart() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    requirements = PYPROJECT["project"]["dependencies"] + extras["train"] + extras["dev"]
    assert not [line for line in requirements if line.startswith("onnxruntime")]
    assert PYPROJECT["tool"]["uv"]["conflicts"] == [[{"extra": "cpu"}, {"extra": "gpu"}]]


def test_every_requirement_has_a_pin() -> None:
    def name(line: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", line)[0]).lower()

    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    wanted += [line for extra in project["optional-dependencies"].values() for line in extra]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {name(line) for line in pins if "==" in line}
    assert {name(line) for line in wanted} <= pinned


@pytest.mark.parametrize("script", SCRIPTS)
def test_console_script_names_a_function_that_exists(script: str) -> None:
    module, function = SCRIPTS[script].split(":")
    path = ROOT / Path(*module.split(".")[1:]).with_suffix(".py")
    assert path.is_file(), f"{script} starts {module}, so {path.relative_to(ROOT)} has to exist"
    defined = {
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert function in defined, f"{path.relative_to(ROOT)} defines no function {function}"


def test_imports_of_mnq_are_absolute() -> None:
    """`import ops` beside `import mnq.ops` would load a module twice and split its registry."""
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")]
    wrong = [
        f"{path}:{line}: {name}"
        for path in package_sources() + tests
        for line, name in imports(path)
        if name.startswith(".") or name.split(".")[0] in MAY_IMPORT
    ]
    assert not wrong, "write mnq.<folder>.<module> in:\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_the_folders_it_may(folder: str) -> None:
    wrong = [
        f"{path}:{line}: {name}"
        for path in package_sources()
        if path.parts[0] == folder
        for line, name in imports(path)
        if name.startswith("mnq.") and name.split(".")[1] not in MAY_IMPORT[folder]
    ]
    allowed = ", ".join(f"mnq.{name}" for name in sorted(MAY_IMPORT[folder]))
    assert not wrong, f"{folder}/ may import {allowed} only, found:\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    wheel.extractall(folder)
    return folder


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_imports_nothing_of_the_extras(module: str, unpacked: Path) -> None:
    """Runs on the unpacked wheel, without `site`, so that no editable install can help."""
    code = f"""
import importlib, json, sys
sys.path[:0] = [{str(unpacked)!r}, {sysconfig.get_path("purelib")!r}]
importlib.import_module({module!r})
print(json.dumps([list(sys.modules["mnq"].__path__), list(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=unpacked
    )
    assert done.returncode == 0, done.stderr
    where, loaded = json.loads(done.stdout)
    assert where[0] == str(unpacked / "mnq")  # an editable install has a library beside it
    assert not EXTRAS_MODULES & {name.partition(".")[0] for name in loaded}


# Names of architectures, each as a word of its own. Published methods that are named after one
# are not models, and the counts that the paper prints are by model.
ARCHITECTURES = "vit|deit|swin|beit|dino|eva|cait|xcit|pvt|levit|mvit|maxvit|convnext|resnet"
METHOD_NAMES = re.compile(r"\b(i|fq|q)[-_]?vit(?![a-z0-9])")
BY_MODEL = {Path("toolchain/report/paper.py")}


def architecture_names(text: str) -> list[str]:
    """Words of a text that name an architecture, with or without a version."""
    plain = METHOD_NAMES.sub("", text.lower())
    words = rf"(?<![a-z0-9])(?:{ARCHITECTURES})s?(?:[-_]?v?\d+)?(?![a-z0-9])"
    return re.findall(words, plain)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SwinV2, deit_t and `BEiT`", ["swinv2", "deit", "beit"]),
        ("dinov2 of ViTs; swin-v2", ["dinov2", "vits", "swin-v2"]),
        ('METHODS = ("ivit", "fqvit"); I-ViT, FQ-ViT, Q-ViT, IVitGelu, fq_vit', []),
        ("vital evaluations of evidence, beiträge", []),
    ],
)
def test_names_of_architectures_are_found_as_words(text: str, found: list[str]) -> None:
    assert architecture_names(text) == found


def test_toolchain_knows_no_architecture_by_name() -> None:
    """It knows operators: what a model is called changes nothing."""
    sources = [path for path in package_sources() if path.parts[0] == "toolchain"]
    assert len(sources) > 30 and set(sources) >= BY_MODEL
    found = {
        str(path): names
        for path in sources
        if path not in BY_MODEL and (names := architecture_names((ROOT / path).read_text()))
    }
    assert found == {}
