"""`FeatureStudy`: what `study` found of one feature, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..autointerp.scores import Scores
from ..concepts.explanations import Explanation
from ..concepts.labels import shown
from ..geometry.enrichment import Enrichment
from ..viz.card import FeatureCard
from ..viz.escaping import escaped, one_line
from ..viz.lines import Table
from ..viz.page import Links
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .evidence import Evidence, plain

TITLES = {
    "card": "Where it is active, and what it promotes", "explanation": "What it is said to mean",
    "scores": "Whether that is true of other texts", "hard_negatives": "Windows that could be taken for it",
    "logits": "What its direction writes", "enrichment": "Which kinds of tokens it promotes",
    "neighbours": "Features beside it", "steering": "What the model writes when it is turned up",
    "causal_effect": "What changes when it is taken out", "relatives": "Features of other widths",
    "universality": "Whether other dictionaries have it", "meta_latents": "What it is made of",
    "scopes": "What the model itself says of it",
}  # fmt: skip
"""The lines of evidence, in the order shown."""


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class FeatureStudy(View):
    """One feature by every line of evidence there is; made by `index.study`.

    A line of evidence that is missing is None, and `reasons` says why. `print` and notebooks show all of it, `to_html`
    writes a page that needs no network.

    Attributes:
        feature_id: The feature.
        label: What it is called; None without a name or an explanation.
        card: Its examples, figures, logits and neighbours.
        explanation: What it is said to mean: what people say, else what scores best, else the words it fires on.
        scores: Of that explanation, and of the words it fires on, on texts that they were not made from.
        hard_negatives: Windows where it is not active though much speaks for it.
        logits: What its direction promotes, beside random directions.
        enrichment: Sets of tokens that it promotes, beside random directions.
        neighbours: Features near to it or active with it, beside what chance gives.
        steering: What is written when it is added, beside random directions.
        causal_effect: How far the next token changes when it is taken out, beside other features of the same tokens.
        relatives: Features of a family's other widths.
        universality: The features of a family's other dictionaries that are active like it.
        meta_latents: What a meta-SAE takes it apart into.
        scopes: What patch scoping makes the model say.
        controls: What each line of evidence is held against, in words.
        reasons: Why a line of evidence is missing.
        seed: Of everything that is drawn.
        seconds: How long it took.
    """

    feature_id: int
    label: str | None
    card: FeatureCard | None = None
    explanation: Explanation | None = None
    scores: Scores | None = None
    hard_negatives: Evidence | None = None
    logits: Evidence | None = None
    enrichment: Enrichment | None = None
    neighbours: Evidence | None = None
    steering: Evidence | None = None
    causal_effect: Evidence | None = None
    relatives: Evidence | None = None
    universality: Evidence | None = None
    meta_latents: Evidence | None = None
    scopes: Any = None
    controls: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0

    def sections(self) -> Iterator[tuple[str, Any]]:
        """(name, line of evidence) of those that there are, in the order shown."""
        for name in TITLES:
            if (part := getattr(self, name)) is not None:
                yield name, part

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it: {"feature_id", "label", "sections": {name: figures or None}, …}."""
        found = {name: plain(_figures(part)) for name, part in self.sections()}
        return {
            "feature_id": self.feature_id, "label": self.label,
            "sections": {name: found.get(name) for name in TITLES},
            "controls": dict(self.controls), "reasons": dict(self.reasons), "seed": self.seed,
            "seconds": self.seconds,
        }  # fmt: skip

    # -- to look at -----------------------------------------------------------------------------------

    def fragment(self, level: int = 2, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page: a summary, every line of evidence, and what is missing.

        Args:
            level: Of its heading.
            links: Where features are shown on the same page.
            element_id: Id of that heading; "" gives it none.
        """
        anchor = f' id="{element_id}"' if element_id else ""
        prefix = element_id or f"mxt-study-{self.feature_id}"
        head = f'<h{level} class="mxt-h1"{anchor}>{escaped(self._title())}</h{level}>'
        parts = "".join(
            f'<section aria-label="{escaped(TITLES[name])}"><h{level + 1} class="mxt-h2" id="{prefix}-{name}">'
            f"{escaped(TITLES[name])}</h{level + 1}>{self._shown(name, part, level + 2, links)}</section>"
            for name, part in self.sections()
        )
        rows = "".join(
            f'<tr><td style="white-space:nowrap"><a href="#{prefix}-{name}">{escaped(TITLES[name])}</a></td>'
            f"<td>{escaped(told)}</td><td>{escaped(control)}</td></tr>"
            for name, told, control in self._summary()
        )
        table = (
            '<table class="mxt-t"><thead><tr><th scope="col">evidence</th><th scope="col">in short</th>'
            f'<th scope="col">held against</th></tr></thead><tbody>{rows}</tbody></table>'
        )
        return f'{head}<p class="mxt-lead">{escaped(self._lead)}</p>{table}{parts}{self._missing(level + 1)}'

    def _shown(self, name: str, part: Any, level: int, links: Links | None) -> str:
        if isinstance(part, Evidence):
            return part.body()
        control = f"<p>Control: {escaped(self.controls[name])}</p>"
        if isinstance(part, Explanation):
            return f"<p>{escaped(shown(part))}</p><p>{escaped(_source(part))}</p>{control}"
        return part.fragment(level, links) + control

    def _missing(self, level: int) -> str:
        if not self.reasons:
            return ""
        rows = "".join(
            f"<li>{escaped(TITLES[name])}: {escaped(why)}</li>" for name, why in self.reasons.items()
        )
        return f'<section aria-label="Missing"><h{level} class="mxt-h2">Missing</h{level}><ul>{rows}</ul></section>'

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: the summary, then every line of evidence.

        Args:
            color: None sets headings in bold where the output is a terminal and NO_COLOR is not set.
        """
        color = wants_color(color)
        table = Table(
            ["evidence", "in short", "held against"],
            [
                [TITLES[name], one_line(told)[:60], one_line(control)[:60]]
                for name, told, control in self._summary()
            ],
        )
        parts = [bold(one_line(self._title()), color), self._lead, *table.lines()]
        for name, part in self.sections():
            parts += ["", bold(f"== {TITLES[name]}", color)]
            if isinstance(part, Evidence):
                parts.append(part.to_str(False).partition("\n")[2])
                continue
            if isinstance(part, Explanation):
                parts += [one_line(shown(part)), one_line(_source(part))]
            else:
                parts.append(part.to_str(color))
            parts.append(f"Control: {one_line(self.controls[name])}")
        if self.reasons:
            parts += ["", bold("== Missing", color)]
            parts += [f"{TITLES[name]}: {one_line(why)}" for name, why in self.reasons.items()]
        return "\n".join(parts)

    @property
    def _lead(self) -> str:
        there = sum(1 for _ in self.sections())
        return (
            f"{there} lines of evidence, {len(self.reasons)} missing; seed {self.seed}, {self.seconds:.1f} s"
        )

    def _summary(self) -> Iterator[tuple[str, str, str]]:
        """(name, in short, control) of each line of evidence."""
        for name, part in self.sections():
            yield name, _in_short(part), self.controls.get(name, "")

    def __repr__(self) -> str:
        return f"<FeatureStudy of {one_line(self._title())}: {self._lead}>"

    def _title(self) -> str:
        return f"Study of feature {self.feature_id}" + (f": {self.label}" if self.label else "")


def _in_short(part: Any) -> str:
    if isinstance(part, Evidence):
        return (
            f"{part.findings[0]}{f': {part.verdict}' if part.verdict else ''}"
            if part.findings
            else part.verdict
        )
    if isinstance(part, Explanation):
        return shown(part)
    if isinstance(part, FeatureCard):
        return f"active on {100 * part.stats.density:.3g} % of {part.stats.n_tokens:,} tokens"
    if isinstance(part, Scores):
        return "; ".join(f"{task} {score}" for task, score in part[0].scores.items()) or part[0].reason
    if isinstance(part, Enrichment):
        best = part.table[0]
        return f"{best['set']}: score {best['es']:+.2f}, q {best['q']:.2g}"
    return repr(part)


def _source(told: Explanation) -> str:
    sure = "" if told.confidence is None else f", confidence {told.confidence:g}"
    return f"said by: {told.source}{sure}"


def _figures(part: Any) -> Any:
    """The figures of a line of evidence."""
    if isinstance(part, Evidence):
        return {
            "title": part.title, "findings": list(part.findings), "control": part.control,
            "stands_out": part.stands_out, **part.data,
        }  # fmt: skip
    if isinstance(part, Explanation):
        scores = {name: {"value": score.value, "chance": score.chance} for name, score in part.scores.items()}
        return {"text": part.text, "source": part.source, "confidence": part.confidence, "scores": scores}
    if isinstance(part, FeatureCard):
        return _card_figures(part)
    if isinstance(part, Scores):
        return {"judge": part.judge, "seed": part.seed, "explanations": [_scored(one) for one in part]}
    if isinstance(part, Enrichment):
        return {"sets": part.table, "passing": part.passing, "null": part.null, "n": part.n}
    return repr(part)


def _card_figures(card: FeatureCard) -> dict[str, Any]:
    stats = card.stats
    return {
        "count": stats.count, "tokens": stats.n_tokens, "density": stats.density, "mean": stats.mean,
        "maximum": stats.maximum, "top_tokens": list(stats.top_tokens), "component": card.component,
        "sae": card.sae_name, "facts": dict(card.facts),
        "promoted": [] if card.logits is None else list(card.logits.promoted),
        "suppressed": [] if card.logits is None else list(card.logits.suppressed),
        "examples": {
            title: [
                {"text_id": one.text_id, "position": one.position, "activation": one.activation,
                 "tokens": list(one.tokens), "activations": one.activations}
                for one in several
            ]
            for title, several in card.groups()
        },
    }  # fmt: skip


def _scored(one: Any) -> dict[str, Any]:
    scores = {
        task: {
            "value": score.value, "chance": score.chance, "interval": score.interval, "n": score.n,
            "failed": score.failed, "as_wrong": one.details[task].as_wrong, "by_kind": dict(one.details[task].by_kind),
        }
        for task, score in one.scores.items()
    }  # fmt: skip
    return {
        "text": one.explanation.text,
        "source": one.explanation.source,
        "scores": scores,
        "reason": one.reason,
    }
