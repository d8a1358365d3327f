"""Asks a server, before any work, what it can do. In: a client. Out: findings. Some twenty requests of a few tokens.

What a server says of itself is not believed where it can be tried: settings that are accepted and ignored are found out by
their effect. A wrong key, a wrong name and an address where nothing answers end here, with one message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from humpback.engines.base import Sampling
from humpback.engines.server import requests, wire
from humpback.engines.server.client import Client, Reply
from humpback.engines.server.findings import Findings
from humpback.engines.server.retries import BadAnswerError, GaveUpError, read_error
from humpback.errors import InputError
from humpback.recipe import ServerSettings

__all__ = ["probe", "probe_url"]

T = TypeVar("T")

IDS = (40, 41, 42, 43, 44, 45)
"""Token ids that every vocabulary has."""
MENU = (46, 47, 48, 49, 50)
MOST_TOPS = (64, 20, 5, 1)
"""How many top log-probabilities are asked for, until a server grants it."""
TRIES = 6
"""Of a request whose reply cannot be read, before that is taken for what the server does."""
COMPLETIONS, CHAT, BIASED = "/v1/completions", "/v1/chat/completions", "/completion"
SAYING = "Tell me about rivers."


def probe_url(settings: ServerSettings) -> Findings:
    """Probe the server at `settings.url`."""
    assert settings.url is not None
    client = Client(settings.url, settings)
    try:
        return client.do(probe(client))
    finally:
        client.close()


async def probe(client: Client) -> Findings:
    """Return what the server can do with the model that the settings name."""
    found = await _find_model(client)
    found = await _try_completions(client, found)
    found = await _try_chat(client, found)
    if not found.completions and not found.chat:
        raise InputError(
            f"{client.url} serves {found.model}, but neither completes a text (/v1/completions) nor answers a message "
            "(/v1/chat/completions); check runtime.server.url"
        )
    if found.token_prompts:
        found = await _try_choices(client, found)
        found = await _try_likelihood(client, found)
        if found.likelihood and found.choices in (None, "top"):
            found = dataclasses.replace(found, choices="each")
    return await _try_seeds(client, found)


# -- which model ---------------------------------------------------------------------------------------------------------


async def _find_model(client: Client) -> Findings:
    for _ in range(TRIES):
        reply = await client.look("GET", "/v1/models")
        listed = _listed(reply)
        if listed or reply.status >= 300:
            break  # else a damaged reply, or a list that is empty indeed
    names = tuple(str(item["id"]) for item in listed)
    aliases = [alias for item in listed for alias in _strings(item.get("aliases"))]
    wanted = client.settings.model
    if wanted is None and len(names) != 1:
        told = f"it lists {', '.join(names)}" if names else f"it lists none (HTTP {reply.status} at /v1/models)"
        raise InputError(f"{client.url}: which model? {told}; set runtime.server.model (doctor: --model)")
    if wanted is not None and names and wanted not in (*names, *aliases):
        raise InputError(
            f"{client.url} does not serve runtime.server.model={wanted}; it serves {', '.join(names)}: set one of them"
        )
    model = wanted or names[0]
    stated = next((item for item in listed if model == item["id"] or model in _strings(item.get("aliases"))), {})
    owner = str(stated.get("owned_by", ""))
    kind: Literal["vllm", "llama.cpp", "sglang", "other"] = "other"
    if owner in ("vllm", "sglang"):
        kind = "vllm" if owner == "vllm" else "sglang"
    elif owner == "llamacpp":
        kind = "llama.cpp"
    found = Findings(url=client.url, is_here=client.is_here, kind=kind, models=names, model=model)
    return await _describe_model(client, found, stated)


async def _describe_model(client: Client, found: Findings, stated: Mapping[str, object]) -> Findings:
    """Take over what the server states of the model."""
    meta = stated.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    names = ("architecture", "ftype", "n_params", "size", "n_vocab")
    details = [f"{name} {meta[name]}" for name in names if isinstance(meta.get(name), int | str)]
    folder, context = stated.get("root"), stated.get("max_model_len") or meta.get("n_ctx")
    if found.kind == "llama.cpp":
        props = _object(await client.look("GET", "/props"))
        folder = props.get("model_path", folder)
    vocabulary = meta.get("n_vocab")
    return dataclasses.replace(
        found,
        folder=folder if isinstance(folder, str) else None,
        context=context if isinstance(context, int) else None,
        vocabulary=vocabulary if isinstance(vocabulary, int) else None,
        details=", ".join(details),
    )


# -- completions ---------------------------------------------------------------------------------------------------------


async def _try_completions(client: Client, found: Findings) -> Findings:
    plain = requests.completion_body(found, SAYING, requests.ONE)
    reply = await client.look("POST", COMPLETIONS, plain)
    if not await _ask(client, COMPLETIONS, plain, lambda data: wire.only_choice(data, found)):
        _refuse_model(client, found, reply)
        return found
    found = dataclasses.replace(
        found, completions=True, answers_as=await _learn_name(client, COMPLETIONS, plain, found)
    )
    extended = await client.look("POST", COMPLETIONS, plain | requests.PLAIN)
    found = dataclasses.replace(found, extensions=extended.status < 300)
    tokens = requests.completion_body(found, IDS, requests.ONE)
    if await _ask(client, COMPLETIONS, tokens, lambda data: wire.prompt_tokens(data) == len(IDS)):
        found = dataclasses.replace(found, token_prompts=True)
    trial = dataclasses.replace(found, drawn_tokens=True)
    drawn = requests.completion_body(trial, IDS if found.token_prompts else SAYING, requests.ONE)
    if await _ask(client, COMPLETIONS, drawn, lambda data: wire.read_completion(data, trial, ())):
        found = trial
    for count in MOST_TOPS:
        body = requests.completion_body(found, SAYING, requests.ONE) | {"logprobs": count}
        if told := await _ask(client, COMPLETIONS, body, lambda data: wire.read_top(data, found)):
            return dataclasses.replace(found, top_logprobs=min(len(told.logprobs), count))
    return found


async def _try_chat(client: Client, found: Findings) -> Findings:
    trial = dataclasses.replace(found, extensions=False, drawn_tokens=False)
    body = requests.chat_body(trial, SAYING, requests.ONE)
    reply = await client.look("POST", CHAT, body)
    if reply.status == 400 and "max_completion_tokens" in read_error(reply.body)[1]:
        trial = dataclasses.replace(trial, length_name="max_completion_tokens")
        body = requests.chat_body(trial, SAYING, requests.ONE)
        reply = await client.look("POST", CHAT, body)
    if not await _ask(client, CHAT, body, lambda data: wire.only_choice(data, trial)):
        if not found.completions:
            _refuse_model(client, found, reply)
        return found
    found = dataclasses.replace(found, chat=True, length_name=trial.length_name)
    if not found.completions:
        extended = await client.look("POST", CHAT, body | requests.PLAIN)
        name = await _learn_name(client, CHAT, body, found)
        found = dataclasses.replace(found, extensions=extended.status < 300, answers_as=name)
    tops = body | {"logprobs": True, "top_logprobs": 20}
    told = await _ask(client, CHAT, tops, lambda data: wire.read_top(data, trial))
    return dataclasses.replace(found, chat_top_logprobs=min(len(told.logprobs) if told else 0, 20))


async def _learn_name(client: Client, path: str, body: Mapping[str, object], found: Findings) -> str | None:
    """Return the name that stands in replies: the one asked for, or another that comes twice in a row; None if it varies."""
    names = []
    for _ in range(2):
        reply = _object(await client.look("POST", path, body))
        if reply.get("model") == found.model:
            return found.model
        names.append(reply.get("model"))
    return names[0] if isinstance(names[0], str) and names[0] == names[1] else None


# -- log-probabilities ---------------------------------------------------------------------------------------------------


async def _try_choices(client: Client, found: Findings) -> Findings:
    named = requests.named_body(found, IDS, MENU)
    if await _ask(client, COMPLETIONS, named, lambda data: wire.read_named(data, found, MENU)):
        return dataclasses.replace(found, choices="named")
    drawn, shared = requests.biased_body(IDS, MENU), requests.biased_body(IDS, MENU, shares=True)
    if await _ask(client, BIASED, drawn, lambda data: wire.read_biased(data, MENU)):
        shares = await _ask(client, BIASED, shared, lambda data: wire.read_shares(data, MENU))
        found = dataclasses.replace(found, choices="biased" if shares else None)
    if found.choices:
        return found
    return dataclasses.replace(found, choices="top") if found.top_logprobs > 1 else found


async def _try_likelihood(client: Client, found: Findings) -> Findings:
    trial = dataclasses.replace(found, likelihood="prompt_logprobs")
    body = requests.likelihood_body(trial, IDS)
    if await _ask(client, COMPLETIONS, body, lambda data: [wire.read_prompt_logprobs(data, found, IDS, 1)]):
        return trial
    trial = dataclasses.replace(found, likelihood="echo")
    body = requests.likelihood_body(trial, IDS)
    # a server that echoes nothing tells of the one token it drew
    return trial if await _ask(client, COMPLETIONS, body, lambda data: [wire.read_echo(data, found, IDS, 1)]) else found


async def _try_seeds(client: Client, found: Findings) -> Findings:
    free = Sampling(temperature=1.0, top_p=1.0, max_tokens=12)
    plain, texts = dataclasses.replace(found, drawn_tokens=False), []
    for seed in (1, 1, 2):
        make, path = (requests.completion_body, COMPLETIONS) if found.completions else (requests.chat_body, CHAT)
        body = make(plain, SAYING, free) | {"seed": seed}
        drawn = await _ask(client, path, body, lambda data: wire.read_completion(data, plain, ()))
        texts.append(drawn.text if drawn else "")
    if texts[0] != texts[1]:
        return dataclasses.replace(found, seeds="ignored")
    return dataclasses.replace(found, seeds="kept" if texts[2] != texts[0] else "unknown")


# -- replies -------------------------------------------------------------------------------------------------------------


async def _ask(client: Client, path: str, body: Mapping[str, object], read: Callable[[object], T]) -> T | None:
    """Return what the reply tells, or None when the server refuses, or tells something else every time."""
    for _ in range(TRIES):
        reply = await client.look("POST", path, body)
        if reply.status >= 300:
            return None
        try:
            return read(reply.json())
        except (BadAnswerError, GaveUpError):
            continue  # a server that is only faulty now and then will tell
    return None


def _refuse_model(client: Client, found: Findings, reply: Reply) -> None:
    """Raise when the server says that it knows no such model; a 404 alone may be an endpoint that is not there."""
    said = read_error(reply.body)[1]
    if reply.status in (400, 404) and "model" in said.lower() and "max_completion_tokens" not in said:
        names = f"; it serves {', '.join(found.models)}" if found.models else ""
        raise InputError(f"{client.url} refuses runtime.server.model={found.model}: {said}{names}")


def _object(reply: Reply) -> dict[str, object]:
    try:
        data = reply.json()
    except BadAnswerError:
        return {}
    return data if isinstance(data, dict) else {}


def _listed(reply: Reply) -> list[dict[str, object]]:
    data = _object(reply).get("data") if reply.status < 300 else None
    return [item for item in data if isinstance(item, dict) and "id" in item] if isinstance(data, list) else []


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
