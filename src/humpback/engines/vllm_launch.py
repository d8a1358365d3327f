"""How to start vLLM for a model. In: a model and the recipe's settings. Out: a command, an environment and `EngineArgs`.

Also what the engine must know of a model before vLLM has read it: how long its texts may be, and which tokens end them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from humpback.engines.base import ModelRef
from humpback.engines.hf_tokenizer import HFTokenizer
from humpback.engines.vllm_process import Adapter, Launch
from humpback.errors import InputError, MissingDependencyError
from humpback.recipe import NumberFormat, VLLMSettings

__all__ = ["find_python", "plan_launch", "read_adapter", "read_context", "read_ends"]

CHILD = Path(__file__).with_name("vllm_child.py")
MAX_LOGPROBS = 128
"""Most tokens whose log-probabilities vLLM may be asked for in one request; its own limit."""
CPU_CACHE_GIB = "2"
"""Keys and values on a CPU, where the user has not set VLLM_CPU_KVCACHE_SPACE: vLLM would take most of the memory."""
ADAPTER_FIX = "give a folder as written by PEFT's save_pretrained"


def plan_launch(
    model: ModelRef,
    settings: VLLMSettings,
    *,
    room: int,
    device: str,
    threads: int | None,
    dtype: NumberFormat = "auto",
    command: tuple[str, ...] | None = None,
) -> Launch:
    """Return how to start the process; `room` is the longest prompt and answer together."""
    engine: dict[str, str | int | float | bool] = {
        "model": model.path,
        "device": device.partition(":")[0],
        "load_format": "safetensors",
        "dtype": dtype,
        # the token that a rating or a likelihood draws after the prompt has to fit too; it is never fed
        "max_model_len": room + 1,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.enforce_eager,
        "max_loras": settings.max_loras,
        "enable_prefix_caching": True,
        "max_logprobs": MAX_LOGPROBS,
        "seed": 0,
    }
    return Launch(
        command=command or (find_python(settings.python), str(CHILD)),
        environment=tuple(sorted(_environment(os.environ, settings, device, threads).items())),
        settings=tuple(sorted(engine.items())),
        start_timeout_s=settings.start_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
    )


@lru_cache(maxsize=8)
def find_python(python: str | None) -> str:
    """Return the interpreter that has vLLM, or raise with the way to get one."""
    if python is None:
        found = importlib.util.find_spec("vllm")
        if found is None or found.origin is None:
            raise MissingDependencyError(
                "the vllm package is not installed; install it with: pip install 'humpback-lm[vllm]', or set "
                "runtime.vllm.python to the interpreter of an environment that has it"
            )
        return sys.executable
    path = shutil.which(os.path.expanduser(python))
    if path is None:
        raise InputError(
            f"runtime.vllm.python={python} is no program; give an interpreter, for example .venv-vllm/bin/python"
        )
    looking = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    try:
        done = subprocess.run(
            [path, "-c", looking], cwd="/", env=_clean(os.environ), capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"runtime.vllm.python={python} cannot be run ({error}); give a Python interpreter") from error
    if done.returncode:
        raise MissingDependencyError(
            f"runtime.vllm.python={python} has no vllm package; install it there: {python} -m pip install vllm"
        )
    return path


def read_context(folder: Path) -> int | None:
    """Return the longest sequence that a model takes, in tokens; None where its config does not say."""
    config = _read_json(folder / "config.json")
    text = config.get("text_config")
    value = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return value if isinstance(value, int) else None


def read_ends(folder: Path, tokenizer: HFTokenizer) -> frozenset[int]:
    """Return the tokens that end a completion: the published ones, the tokenizer's, and the end of the turn."""
    files = [folder / "generation_config.json", folder / "config.json"]
    published = next((ends for file in files if (ends := _read_json(file).get("eos_token_id")) is not None), [])
    ends = published if isinstance(published, list) else [published]
    return frozenset(
        {*(end for end in ends if isinstance(end, int)), tokenizer.eos_token_id, tokenizer.end_of_turn[-1]}
    )


def read_adapter(folder: Path, name: str) -> Adapter:
    """Return what there is to know of a LoRA adapter that vLLM can load, or say why it cannot."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise InputError(f"the adapter {folder} has no adapter_config.json; {ADAPTER_FIX}")
    config = _read_json(path)
    rank = config.get("r")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int):
        raise InputError(f"{path} is not of a LoRA adapter; {ADAPTER_FIX}")
    for key in ("modules_to_save", "use_dora"):
        if config.get(key):
            raise InputError(
                f"{path} has {key}={config[key]}, which vLLM cannot load; merge the adapter into its model"
            )
    if config.get("bias", "none") != "none":
        raise InputError(f"{path} has bias={config['bias']}, which vLLM cannot load; merge the adapter into its model")
    patterns = config.get("rank_pattern")
    ranks = patterns.values() if isinstance(patterns, dict) else ()
    modules = _read_modules(folder / "adapter_model.safetensors")
    if unfit := sorted(modules & {"lm_head", "embed_tokens"}):
        raise InputError(
            f"the adapter {folder} changes {', '.join(unfit)}, with which vLLM tells no likelihoods; merge it into its model"
        )
    largest = max([rank, *(value for value in ranks if isinstance(value, int))])
    return Adapter(name=name, folder=str(folder), rank=largest, modules=modules)


# -- inner -------------------------------------------------------------------------------------------------------------


def _environment(ours: Mapping[str, str], settings: VLLMSettings, device: str, threads: int | None) -> dict[str, str]:
    environment = dict(ours) if settings.python is None else _clean(ours)
    environment |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the child is the engine: with it everything is gone
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # forked workers would hold our pipes open
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # by the one token that is drawn and never fed
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder
        "TOKENIZERS_PARALLELISM": "false",
    }
    if settings.enforce_eager:  # or vLLM still compiles its sampler, half a minute on a CPU
        environment["TORCHDYNAMO_DISABLE"] = "1"
    environment.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if device.startswith("cuda:"):
        number = int(device.partition(":")[2])
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if visible and number >= len(visible):
            raise InputError(f"runtime.device={device}: CUDA_VISIBLE_DEVICES={','.join(visible)} has no such device")
        environment["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return environment


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for another interpreter: our packages are not for it."""
    return {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _read_modules(weights: Path) -> frozenset[str]:
    """Return the names of the layers that an adapter's weights belong to: `...self_attn.q_proj.lora_A.weight` is q_proj's."""
    try:
        with weights.open("rb") as file:  # a safetensors file begins with the length of its header, which is JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        names = [name.split(".") for name in header if name != "__metadata__"]
        modules = frozenset(
            name[max(i for i, part in enumerate(name) if part.startswith("lora_")) - 1] for name in names
        )
    except (OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{weights} is not the weights of a LoRA adapter ({reason}); {ADAPTER_FIX}") from error
    if not modules:
        raise InputError(f"{weights} holds no weights; {ADAPTER_FIX}")
    return modules


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}); copy or fetch it again") from error
    return content if isinstance(content, dict) else {}
