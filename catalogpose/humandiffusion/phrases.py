"""A sentence of free words becomes one phrase a garment, by a readable lexicon and clause rules.

No weights: the same sentence gives the same phrases everywhere. The words stand in `lexicon.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

from catalogpose.humandiffusion.lexicon import Lexicon, Link, load_lexicon
from catalogpose.records import SIDES_OF

TOKEN = re.compile(
    r"""
    "[^"]*" | \u201c[^\u201d]*\u201d | \u2018[^\u2019]*\u2019 | (?<!\w)'[^']*'(?!\w)
    | [^\W_]+ (?: [-'\u2019] [^\W_]+ )*
    | [^\w\s] | \n
    """,
    re.VERBOSE,
)
"""Words, hyphens and apostrophes inside them included; quoted text as one token; single marks."""

PAIR = ("pair", "pairs", "set", "lot")
"""Words whose `of` opens nothing: a pair of jeans."""


STRENGTH: tuple[Link, ...] = ("adds", "joins", "opens", "stops")
"""Links from the weakest to the strongest."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """What a sentence says of one label."""

    label: str
    """A name of `LABELS`; `shoe` and `skin` stand for all their sides, see `SIDES_OF`."""
    text: str
    """The words, as they stand in the sentence; several mentions are joined by commas."""
    start: int
    """Where the first mention begins, in characters."""
    end: int
    """Where the last mention ends, exclusive."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a map that the phrase speaks of."""
        return SIDES_OF.get(self.label, (self.label,))


@dataclass(frozen=True, kw_only=True)
class Split:
    """A sentence by labels."""

    phrases: tuple[Phrase, ...]
    """One a label, in the order in which they are first mentioned."""
    absent: tuple[str, ...]
    """Labels that the sentence says are not there: `no hat`."""


@dataclass(frozen=True, kw_only=True)
class _Token:
    """A word or a mark of the sentence."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A garment's noun: its tokens in the sentence and the labels it means."""

    first: int
    last: int
    labels: tuple[str, ...]


@dataclass(kw_only=True)
class _Segment:
    """The tokens from `first` to before `end` between two links, and the nouns among them."""

    link: Link
    first: int
    end: int
    heads: list[_Head] = field(default_factory=list)
    negated: bool = False


def split_prompt(prompt: str) -> Split:
    """Split a sentence into a phrase a label.

    A noun of the lexicon takes the words before it in its clause, and the headless clauses that
    follow it (`with white stripes`, `in navy`). `and` and commas part two garments where both sides
    have one; before a garment, they join adjectives (`black and white checked shirt`). The last of
    adjacent nouns counts (`shirt dress`); a noun before a part of a garment does not (`shirt
    collar`).

    Args:
        prompt: Free words in English, in any case; quoted text is never a garment.
    """
    words = load_lexicon()
    tokens = [
        _Token(text=match[0].lower(), start=match.start(), end=match.end())
        for match in TOKEN.finditer(prompt)
    ]
    segments = _find_segments(tokens, words)
    found: dict[str, list[tuple[int, int]]] = {}
    absent: list[str] = []
    for labels, first, end, negated in _gather(segments, tokens, words):
        for label in labels:
            if negated:
                absent.append(label)
            else:
                found.setdefault(label, []).append((tokens[first].start, tokens[end - 1].end))
    return Split(
        phrases=tuple(
            Phrase(
                label=label,
                text=", ".join(prompt[start:end] for start, end in spans),
                start=spans[0][0],
                end=spans[-1][1],
            )
            for label, spans in found.items()
        ),
        absent=tuple(dict.fromkeys(label for label in absent if label not in found)),
    )


def _find_segments(tokens: Sequence[_Token], words: Lexicon) -> list[_Segment]:
    """Cut the sentence at its links and find the nouns of each part."""
    segments = [_Segment(link="stops", first=0, end=0)]
    for place, token in enumerate(tokens):
        link = _link_of(tokens, place, words)
        if link is None:
            segments[-1].end = place + 1
            continue
        last = segments[-1]
        negated = _denies(token.text, words)
        if last.first == last.end:
            # Of links in a row the strongest counts; a comma ends what was denied before it.
            strengths = map(STRENGTH.index, (last.link, link))
            link = STRENGTH[max(strengths)] if place else link
            negated = negated or (last.negated and token.text != "," and link != "stops")
            segments.pop()
        segments.append(_Segment(link=link, first=place + 1, end=place + 1, negated=negated))
    segments = [segment for segment in segments if segment.first < segment.end]
    for place, segment in enumerate(segments):
        following = segments[place + 1] if place + 1 < len(segments) else None
        if segment.link != "adds" or not _is_motif(following, tokens, words):
            segment.heads = list(_find_heads(tokens, segment, words))
        if segment.negated:
            _deny_list(segments[place:], tokens)
    return segments


def _link_of(tokens: Sequence[_Token], place: int, words: Lexicon) -> Link | None:
    """Return how a word links; None for a word that is said of something."""
    text = tokens[place].text
    before, after = (tokens[i].text if 0 <= i < len(tokens) else "" for i in (place - 1, place + 1))
    if text == "of" and before in PAIR:
        return None
    if text in words.participles:
        return "opens" if after in words.links else None
    return "opens" if _denies(text, words) else words.links.get(text)


def _denies(word: str, words: Lexicon) -> bool:
    """Say whether a word says that something is not there."""
    return word in words.negations or word.endswith(("n't", "n\u2019t"))


def _deny_list(segments: Sequence[_Segment], tokens: Sequence[_Token]) -> None:
    """Have what the first segment denies reach its list's end: `no hat, gloves or scarf`."""
    joined = list(takewhile(lambda segment: segment.link == "joins", segments[1:]))
    ends = [i for i, s in enumerate(joined) if tokens[s.first - 1].text in ("or", "nor")]
    for segment in joined[: ends[-1] + 1 if ends else 0]:
        segment.negated = True


def _is_motif(following: _Segment | None, tokens: Sequence[_Token], words: Lexicon) -> bool:
    """Say whether what a segment adds lies on a garment: `with a boot`, `on the chest`."""
    if following is None or tokens[following.first - 1].text != "on":
        return False
    texts = [token.text for token in _of(tokens, following)[:2]]
    return texts[0] in ("the", "its", "each", "both") and texts[-1] in words.places


def _find_heads(tokens: Sequence[_Token], segment: _Segment, words: Lexicon) -> Iterator[_Head]:
    """Yield a segment's nouns; none before a part of a garment. Of several the last counts, unless
    an adjective or an article parts them and their labels differ.
    """
    longest = max(map(len, words.nouns))
    place = segment.first
    pending: _Head | None = None
    while place < segment.end:
        head = None
        for size in range(min(longest, segment.end - place), 0, -1):
            labels = words.nouns.get(tuple(token.text for token in tokens[place : place + size]))
            if labels is not None:
                head = _Head(first=place, last=place + size - 1, labels=labels)
                break
        follows = pending is not None and pending.last + 1 == place
        if pending is not None and head is None and follows and tokens[place].text in words.parts:
            pending = None
        if head is not None:
            between = [] if pending is None else tokens[pending.last + 1 : head.first]
            parted = any(t.text in words.modifiers or _is_small(t.text, words) for t in between)
            if pending is not None and parted and pending.labels != head.labels:
                yield pending
            pending, place = head, head.last
        place += 1
    if pending is not None:
        yield pending


Span = tuple[tuple[str, ...], int, int, bool]
"""Labels, first token, end, and whether they are said not to be there."""


def _gather(segments: Sequence[_Segment], tokens: Sequence[_Token], words: Lexicon) -> list[Span]:
    """Return what is said of each noun, in order."""
    spans: list[Span] = []
    open_span = False
    before: int | None = None  # Where adjectives begin that a later noun takes; None: none wait.
    for place, segment in enumerate(segments):
        if segment.heads:
            start = segment.first if before is None else before
            for head in segment.heads:
                first = _begin(tokens, start, head, words)
                spans.append((head.labels, first, head.last + 1, segment.negated))
                start = head.last + 1
            end, open_span = _until_elsewhere(tokens, segment.heads[-1].last + 1, segment, words)
            spans[-1] = (*spans[-1][:2], end, spans[-1][3])
            before = None
        elif _leads_on(segments[place:], tokens, words):
            before = segment.first if before is None else before
        elif segment.link in ("stops", "opens") or not open_span:
            open_span, before = False, None
        else:
            end, open_span = _until_elsewhere(tokens, segment.first, segment, words)
            if end > segment.first:
                spans[-1] = (*spans[-1][:2], end, spans[-1][3])
    return spans


def _leads_on(segments: Sequence[_Segment], tokens: Sequence[_Token], words: Lexicon) -> bool:
    """Say whether the first segment is adjectives alone that a joined noun's adjectives go on."""
    if segments[0].link == "adds" and tokens[segments[0].first - 1].text != "with":
        return False  # `a shirt in red and a blue skirt`
    for segment, following in pairwise(segments):
        if not all(
            t.text in words.modifiers or t.text in ("a", "an") for t in _of(tokens, segment)
        ):
            return False
        if following.link != "joins":
            return False
        if following.heads:
            opening = tokens[following.first].text
            return opening in words.modifiers or following.heads[0].first == following.first
    return False


def _of(tokens: Sequence[_Token], segment: _Segment) -> Sequence[_Token]:
    """Return a segment's tokens."""
    return tokens[segment.first : segment.end]


def _begin(tokens: Sequence[_Token], start: int, head: _Head, words: Lexicon) -> int:
    """Return where a noun's words begin: behind the last word that speaks of something else."""
    first = start
    for place in range(start, head.first):
        if tokens[place].text in words.elsewhere or tokens[place].text in words.determiners:
            first = place + 1
    return first


def _until_elsewhere(
    tokens: Sequence[_Token], start: int, segment: _Segment, words: Lexicon
) -> tuple[int, bool]:
    """Return where a segment's words end from `start` on, and whether more may follow."""
    end = start
    elsewhere = words.elsewhere | words.body
    while end < segment.end and tokens[end].text not in elsewhere:
        end += 1
    whole = end == segment.end
    while end > start and not whole and _is_small(tokens[end - 1].text, words):
        end -= 1
    return end, whole


def _is_small(word: str, words: Lexicon) -> bool:
    """Say whether a word only leads to the next one, as in `on her wrist`."""
    return word in ("a", "an") or word in words.determiners or word in words.links
