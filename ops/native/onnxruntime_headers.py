"""Gets onnxruntime's C headers: the package libonnxruntime-dev of Debian 13, on any Debian.

`python3 onnxruntime_headers.py FOLDER` unpacks it into FOLDER, without installing anything and
without root, and prints the folder of the headers. Older Debians have no such package, so apt is
pointed at the suite that has, on the machine's own mirror and with the machine's own keys.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "libonnxruntime-dev"
SUITE = "trixie"
OS_RELEASE = Path("/etc/os-release")
SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
TIMEOUT = 120  # seconds for one program; all of it takes about five


def get(folder: Path) -> Path:
    """The folder of the headers, below `folder`. Raises OSError or ValueError if it cannot be."""
    headers = folder / "usr/include/onnxruntime"
    if (headers / "onnxruntime_c_api.h").is_file():
        return headers
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"{source()}\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::SourceParts": "/nonexistent",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 20,
        "Acquire::https::Timeout": 20,
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    _run([*apt, "update"], folder)
    _run([*apt, "download", PACKAGE], folder)
    for package in folder.glob(f"{PACKAGE}_*.deb"):
        _run(["dpkg-deb", "-x", str(package.resolve()), "."], folder)
    if not (headers / "onnxruntime_c_api.h").is_file():
        raise ValueError(f"{PACKAGE}: expected onnxruntime_c_api.h in it, found none")
    return headers


def source() -> str:
    """A line for apt: the machine's mirror with the suite that has the package."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', OS_RELEASE.read_text(), re.M))
    if release.get("ID") != "debian":
        raise ValueError(f"expected Debian, found {release.get('ID', 'a system without a name')}")
    suites = {SUITE, "stable", release.get("VERSION_CODENAME", SUITE)}
    for uri, keys, found in _entries():
        if suites & set(found):
            options = f" [signed-by={keys}]" if keys else ""
            return f"deb{options} {uri} {SUITE} main"
    raise ValueError(f"expected a source of apt for {' or '.join(sorted(suites))}, found none")


def _entries() -> Iterator[tuple[str, str, list[str]]]:
    """Mirror, key file ("" for apt's own keys) and suites of each source with a part `main`."""
    main, parts = SOURCES
    for path in sorted([main, *parts.glob("*.list"), *parts.glob("*.sources")]):
        text = path.read_text() if path.is_file() else ""
        if path.suffix == ".list":
            lines = re.findall(r"^deb\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+).*\bmain\b", text, re.M)
            for options, uri, suite in lines:
                keys = re.search(r"signed-by=(\S+)", options)
                yield uri, keys.group(1) if keys else "", [suite]
            continue
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.M))
            words = {key: value.split() for key, value in fields.items()}
            if "deb" in words.get("Types", []) and "main" in words.get("Components", []):
                yield words["URIs"][0], fields.get("Signed-By", ""), words["Suites"]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ValueError(f"{command[0]}: {lines[-1] if lines else 'failed without a message'}")


if __name__ == "__main__":
    try:
        print(get(Path(sys.argv[1]).resolve()))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(f"onnxruntime_headers.py: {error}")
