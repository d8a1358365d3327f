"""Mix: the rows a model is fine-tuned on, rendered and tokenised, each with its origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from humpback.prompts import Prompts, Rendered
from humpback.records import Example, Pair, Rejected, Scored, content_id
from humpback.stages.rejecting import reject

__all__ = ["mix", "mix_backward"]


def mix(seed: Iterable[Pair], curated: Iterable[Scored], prompts: Prompts) -> Iterator[Example | Rejected]:
    """Yield forward rows: seed pairs with the seed tag, then curated pairs with the web tag; loss on the response only."""
    for pair in seed:
        yield _forward(pair, "seed", prompts.seed_tag, prompts)
    for row in curated:
        yield _forward(row, "web", prompts.web_tag, prompts)


def mix_backward(seed: Iterable[Pair], prompts: Prompts) -> Iterator[Example | Rejected]:
    """Yield reversed seed pairs: the response as the document, loss on the instruction only, no tag."""
    for pair in seed:
        target = prompts.target(pair.instruction)
        if len(target.token_ids) > prompts.instruction_tokens:
            yield reject(
                pair, "target_cut", f"the instruction has {len(target.token_ids)} tokens, augment.max_tokens is less"
            )
            continue
        yield _example(pair, "seed", "", prompts.render(prompts.backward(pair.response), target))


def _forward(row: Pair | Scored, origin: str, tag: str, prompts: Prompts) -> Example | Rejected:
    rendered = prompts.render(prompts.answer(row.instruction, tag), prompts.target(row.response))
    return _example(row, origin, tag, rendered)


def _example(row: Pair | Scored, origin: str, tag: str, rendered: Rendered | str) -> Example | Rejected:
    if isinstance(rendered, str):
        details = {
            "target_empty": "the text to learn is empty",
            "target_cut": "prompt and text to learn are longer than model.max_tokens; a cut text would teach to stop early",
        }
        return reject(row, rendered, details[rendered])
    return Example(
        id=content_id(origin, tag, row.id),
        origin="seed" if origin == "seed" else "web",
        tag=tag,
        instruction=row.instruction,
        response=row.response,
        parent_id=row.id,
        source_uri=row.source_uri,
        input_ids=rendered.input_ids,
        labels=rendered.labels,
    )
