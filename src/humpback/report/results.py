"""docs/results.md: Markdown made only from a run's report.json; no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.report import figures, settables
from humpback.report.decay import decay_cell, decay_columns
from humpback.report.judged import judged_lines, judged_table
from humpback.report.losses import tell_formats
from humpback.report.markdown import code, escape, fenced, listed, table_lines
from humpback.report.signs import count_states
from humpback.report.writings import tell_answers, tell_instructions

__all__ = ["render_results"]

INSTRUCTION_CHARS, RESPONSE_CHARS = 300, 500
Row = Mapping[str, Any]


def render_results(run: Path) -> str:
    """Return the Markdown page for a complete run."""
    data = figures.load_report(run)
    sections = [
        ["# Results", "", _MADE],
        [f"## Run `{data['run']}`", "", _intro(data)],
        ["### Did it work?", "", *listed([*figures.headline(data), *data["verdict"]])],
        ["### Signs of failure", "", f"{count_states(data['signs'])}.", "", *_signs(data["signs"])],
        ["### Funnel", "", "read = kept + rejected + failed", "", *_funnel(data["funnel"])],
        *([["### Gate of the backward model", "", *_gate(data["gate"])]] if data["gate"] else []),
        ["### Audit", "", _AUDIT, "", *_audit(data["audits"])],
        ["### Curation", "", *_curation(data["curation"])],
        ["### Iteration by iteration", "", *_decay(data)],
        ["### Data: size, variety, overlap", "", *_statistics(data["statistics"])],
        ["### Instructions: NLL before and after backward training", "", *_nll(data["evaluation"]["instruction_nll"])],
        *(
            [f"### Responses: NLL, prompted with {label}", "", *_nll(table)]
            for label, table in data["evaluation"]["response_nll"].items()
        ),
        [
            "### Training",
            "",
            f"Losses: means over the first and last tenth of the steps. {tell_formats(data['training'])}",
            "",
            *_training(data["training"]),
        ],
        [f"### {len(data['best'])} curated pairs, best first", "", *_pairs(data["best"])],
        [f"### {len(data['rejected'])} rejected pairs, taken evenly", "", *_pairs(data["rejected"])],
        [f"### {len(data['written'])} generated instructions, unselected", "", *tell_instructions(data["written"])],
        *_answers(data),
        ["### Environment and time", "", *_environment(data)],
    ]
    return "\n\n".join("\n".join(lines).rstrip() for lines in sections) + "\n"


_MADE = (
    "Written by `humpback results RUN -o docs/results.md` (`make results`) from the run's own `report.json`: no figure here "
    "is typed by hand. [log.md](log.md) comments on the findings."
)
_AUDIT = "AUC on held-out pairs: the chance that the signal ranks a true pair above a corrupted one (0.5 is a coin)."


def _intro(data: Row) -> str:
    base, pairs = data["recipe"]["model"]["base"], figures.count(data["evaluation"]["pairs"])
    confidence = f"{100 * data['recipe']['evaluate']['confidence']:g}"
    text = f"Base model `{base}`, humpback {data['version']}, iterations: {data['iterations']['ran']}; measured on "
    text += (
        f"{pairs} held-out seed pairs, with {confidence} % bootstrap intervals. NLL: nats per token, lower is better."
    )
    if base == "fake":
        text += " **The scripted engine was used: no model was trained and no figure says anything about one.**"
    return text


def _signs(signs: Sequence[Row]) -> Iterable[str]:
    rows = [[sign["what"], sign["state"], sign["told"], sign["limit"], sign["advice"]] for sign in signs]
    return table_lines(["sign", "state", "figures", "found where", "what to do"], rows)


def _funnel(funnel: Sequence[Row]) -> Iterable[str]:
    rows = [
        [
            row["name"],
            figures.count(row["read"]),
            figures.count(row["kept"]),
            figures.count(sum(row["rejected"].values())),
            figures.count(sum(row["failed"].values())),
            "; ".join(
                filter(
                    None,
                    [figures.reasons(row["rejected"]), figures.reasons(row["failed"]), figures.replies(row["replies"])],
                )
            ),
        ]
        for row in funnel
    ]
    return table_lines(["stage", "read>", "kept>", "rejected>", "failed>", "by reason"], rows)


def _gate(gate: Row) -> Iterable[str]:
    yield f"What M_yx wrote on {figures.count(gate['judged'])} segments before it wrote for all."
    if gate["mean_lift"] is not None:
        yield (
            f"An instruction's own text makes it {figures.score(gate['mean_lift'])} nats per token likelier than a shuffled one does, "
            "on average: of the model's own drafts under itself, so this flatters."
        )
    yield ""
    rows = [
        [
            row["name"],
            row["words"],
            figures.auc(row["value"]) if row["low"] is None else _estimate(row, figures.auc),
            f"{row['side']} {row['limit']:g}",
        ]
        for row in gate["measures"]
    ]
    yield from table_lines(["measure", "what it is", "value", "limit"], rows)


def _answers(data: Row) -> Iterable[list[str]]:
    """Yield the section of answers, where the run has any."""
    if answers := data["answers"]:
        title = f"### {len(answers['rows'])} answers to held-out instructions, with both tags, one and none"
        yield [title, "", *tell_answers(answers)]


def _audit(audits: Sequence[Row]) -> Iterable[str]:
    kinds = figures.kinds(audits)
    rows = [
        [
            audit["model"],
            entry["signal"],
            *(_estimate(entry["auc"].get(kind), figures.auc) for kind in kinds),
            figures.count(entry["missing"]),
        ]
        for audit in audits
        for entry in audit["signals"]
    ]
    yield from table_lines(["model", "signal", *kinds, "missing>"], rows)
    for audit in audits:
        if calibration := audit["calibration"]:
            yield ""
            yield from _calibration(audit["model"], calibration)
    notes = [note for audit in audits for note in audit["notes"]]
    if notes:
        yield ""
        yield from listed(notes)


def _calibration(model: str, calibration: Row) -> Iterable[str]:
    reliability = calibration["reliability"]
    yield (
        f"P(good) of {model}, on folds it was not fitted on: expected calibration error {figures.score(reliability['ece'])}, "
        f"Brier score {figures.score(reliability['brier'])} (0.25 is knowing nothing). Cut-offs, where half of the pairs are good:"
    )
    yield ""
    headers = ["P(good) from>", "true pairs kept>", "corrupted passed>", "precision>", "at least>"]
    yield from table_lines(headers, figures.promise(calibration))
    yield ""
    unseen = ", ".join(f"{kind} {_estimate(row, figures.auc)}" for kind, row in calibration["unseen"].items())
    if unseen:
        yield f"AUC on a corruption that nothing was learnt from: {unseen}."


def _decay(data: Row) -> Iterable[str]:
    columns = decay_columns(data["decay"])
    rows = [[decay_cell(row, name) for name in columns] for row in data["decay"]]
    yield from table_lines([f"{name}{'' if name == 'model' else '>'}" for name in columns], rows)
    yield ""
    yield f"{data['iterations']['told']}. {data['turn']}."
    if judged := data["judged"]:
        yield ""
        yield from table_lines(*judged_table(judged))
        yield ""
        yield from listed(f"{line}." for line in judged_lines(judged))


def _curation(curation: Sequence[Row]) -> Iterable[str]:
    for entry in curation:
        decision = entry["decision"]
        lowest = figures.score(entry["lowest_kept"])
        yield (
            f"- Iteration {entry['iteration']}, scored by {entry['scored_by']}: curated by `{decision['signal']}` "
            f"({decision['policy']} {decision['value']:g}; {decision['why']}); lowest score kept {lowest}."
        )
        yield from (f"  - **Warning:** {escape(warning)}" for warning in decision["warnings"])
        if shift := entry["scores"]["shift"]:
            yield f"  - The candidates beside the audit: {escape(shift['meaning'])}"
        if cuts := decision.get("cuts"):
            yield "  - At the cut-off, on the audit's pairs (recall of true pairs; precision where the corruption is as frequent):"
            for signal, cut, recall, precision, weakest in figures.cutoffs(cuts):
                yield f"    - `{signal}` from {cut}: recall {recall}, precision {precision}; lowest {weakest}"
        if people := entry["people"]:
            yield f"  - People: {escape(people['told'])}."
            if people["worth"]:
                cells = [
                    f"best {share} from {cut}: {n} labels, {mean}, at least {low}"
                    for share, cut, n, mean, low in figures.promise_by_people(people["worth"])
                ]
                yield f"  - Precision by labels that no correction saw: {'; '.join(cells)}."
        if entry["rewrite"]:
            yield f"  - Rewriting: {escape(entry['rewrite']['told'])}."
        if entry["agreement"]:
            yield f"  - Agreement with the model before: {figures.agreement(entry['agreement'])}"
        if changed := decision["changed"]:
            yield f"  - Against the curation before: {changed['stayed']} stayed, {changed['joined']} joined, {changed['left']} left."
        for signal, missing in entry["missing"].items():
            yield f"  - no value for `{signal}`: {escape(figures.reasons(missing))}"


def _statistics(data: Row) -> Iterable[str]:
    for table in settables.set_tables(data):
        yield from (f"{table.title}:", "", *table_lines(table.headers, table.rows), "")
    yield from listed(settables.notes(data))
    for row in data["sets"]:
        if lines := settables.verb_lines(row):
            yield from ("", f"Verbs of {row['name']}:", "", *table_lines(["verb", "n>", "share>", "objects"], lines))


def _nll(table: Row) -> Iterable[str]:
    models = [[row["model"], _estimate(row, figures.nll), figures.count(row["n"])] for row in table["models"]]
    yield from table_lines(["model", "NLL (interval)", "pairs>"], models)
    yield ""
    differences = [
        [f"{row['model']} - {row['against']}", _estimate(row, figures.difference), figures.judgement(row)]
        for row in table["differences"]
    ]
    yield from table_lines(["paired difference", "NLL (interval)", "the first is"], differences)


def _training(training: Sequence[Row]) -> Iterable[str]:
    rows = [
        [
            row["stage"],
            figures.count(row["examples"]),
            f"taken from {row['same_as']}" if row.get("same_as") else figures.count(row["steps"]),
            figures.nll(row["first_tenth_loss"]),
            figures.nll(row["last_tenth_loss"]),
            figures.count(row["tokens"]),
            figures.count(row["label_tokens"]),
            "" if row.get("same_as") else figures.duration(row["seconds"]),
        ]
        for row in training
    ]
    headers = ["stage", "examples>", "steps>", "first loss>", "last loss>", "tokens>", "label tokens>", "time>"]
    return table_lines(headers, rows)


def _pairs(rows: Sequence[Row]) -> Iterable[str]:
    for number, row in enumerate(rows, start=1):
        scores = ", ".join(f"{name} {figures.score(value)}" for name, value in row["scores"].items())
        why = f" Rejected: {row['reason']} ({row['detail']})." if "reason" in row else ""
        yield f"{number}. `{row['id']}` from {code(row['source_uri'])}: {scores}.{escape(why)}"
        text = (
            f"{figures.shorten(row['instruction'], INSTRUCTION_CHARS)}\n"
            f"---\n{figures.shorten(row['response'], RESPONSE_CHARS)}"
        )
        yield ""
        yield from (f"   {line}".rstrip() for line in fenced(text))
        yield ""
    if not rows:
        yield "None."


def _environment(data: Row) -> Iterable[str]:
    yield from table_lines(["what", "value"], [[name, _plain(value)] for name, value in data["environment"].items()])
    yield ""
    rows = [_stage(row, row["engine"]) for row in data["stages"]]
    total = sum(row["seconds"] for row in data["stages"])
    rows.append(["all", "", figures.duration(total), "", "", ""])
    yield from table_lines(["stage", "read>", "time>", "rows/s>", "tokens>", "from cache>"], rows)


def _plain(value: object) -> str:
    """Return a value of the environment, whatever it is, in one cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return figures.NOTHING if value is None else str(value)


def _stage(row: Row, engine: Row) -> list[str]:
    told = [
        row["name"],
        figures.count(row["read"]),
        figures.duration(row["seconds"]),
        figures.rate(row["rows_per_second"]),
    ]
    if not engine["requests"]:
        return [*told, "", ""]
    return [*told, figures.count(engine["tokens_in"] + engine["tokens_out"]), figures.count(engine["cache_hits"])]


def _estimate(row: Row | None, how: Any) -> str:
    return "no value" if row is None else f"{how(row['value'])} ({figures.interval(row, how)})"
