"""What is left to do: each row's seed and digest, held against what the ledger knows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from catalogpose.catalog.files import sha256_file, sha256_json
from catalogpose.records import Description, Outcome, Reference, Row
from catalogpose.truepose.model import ALIGNMENT, CARD_NAME, ModelCard

PICTURE_VERSION = 4
"""Part of every fingerprint; raised whenever the same inputs shall give another picture."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row that a worker shall do."""

    row: Row
    """The row."""
    seed: int
    """The seed of its noise."""
    digest: str
    """Hash of everything that decides its picture."""
    source_sha256: str | None
    """Hash of the photo's file; None where there is none, or it cannot be read."""
    source_key: str
    """Hash of the photo, its map and its label set; rows with one key share their features."""
    reference_key: str | None = None
    """The same of the reference; None where the row has none."""
    mask_sha256: str | None = None
    """Hash of the reference's mask file; None where the row has none, or it cannot be read."""
    map_sha256: str | None = None
    """Hash of a text-driven row's map; None in other rows, or where it cannot be read."""
    target_sha256: str | None = None
    """Hash of a text-driven row's true picture, which shall not inform its own; None in other rows,
    or where there is none that can be read."""
    attempt: int = 1
    """How often the row was tried, this time included."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a manifest's rows, and what is left to do."""

    jobs: tuple[Job, ...]
    """The rows left to do, in the manifest's order."""
    known: Mapping[str, Outcome]
    """What is known already, by id: done rows whose picture lies there, and failed rows."""
    changed: int
    """How many of the jobs redo a row because its files, its seed or the settings changed."""


class FileHashes:
    """SHA-256 of files, each read once while its size and time of change stay."""

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def __call__(self, path: Path | None) -> str | None:
        """Return the file's hash; None if there is none, or it is unreadable: its row then fails in
        the worker.
        """
        if path is None:
            return None
        try:
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            known = self._known.get(path)
            if known is None or known[0] != state:
                known = self._known[path] = (state, sha256_file(path))
        except OSError:
            return None
        return known[1]


def model_fingerprint(folder: Path, card: ModelCard) -> str:
    """Return the hash of a model's weights, of their use by its card and of its configurations.

    The weights count by the card's hashes; the configurations, of nets and scheduler, are read. The
    alignment is left out, which only text-driven rows use: see `words_fingerprint`.
    """
    values = dataclasses.asdict(card)
    for words in ("name", "licence", "training"):
        del values[words]
    own = f"{ALIGNMENT}/"
    values["weights"] = {k: v for k, v in card.weights.items() if not k.startswith(own)}
    # A parser or CLIP put in by hand is not on the card, so its weights are read.
    read = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
    read = {name: path for name, path in read.items() if name not in card.weights}
    read |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.json")}
    configurations = {
        name: sha256_file(path)
        for name, path in read.items()
        if name != CARD_NAME and not name.startswith(own)
    }
    return sha256_json({"card": values, "configurations": configurations})


def words_fingerprint(folder: Path, memory: Path | None) -> str:
    """Return the hash of what text-driven rows use beside the rest: a model folder's alignment, and
    the memory that words look into; None: there is none.
    """
    files = sorted(path for path in (folder / ALIGNMENT).glob("*") if path.is_file())
    return sha256_json(
        [[(path.name, sha256_file(path)) for path in files], memory and sha256_file(memory)]
    )


def row_seed(run_seed: int, row_id: str) -> int:
    """Return a row's seed, 0 to 2**63 - 1, from the run's seed and the row's id alone.

    Neither a row's place nor its neighbours, worker or machine change it.
    """
    text = f"catalogpose-seed-v1\0{run_seed}\0{row_id}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) & (2**63 - 1)


def row_digest(
    row: Row, seed: int, fingerprint: str, hashes: FileHashes, words: str | None = None
) -> str:
    """Return the hash of everything that decides a row's picture; a file counts by its bytes.

    `words` is the `words_fingerprint`, which counts in text-driven rows alone; None: the manifest
    has none.
    """
    # Only rows that have one: digests of the others stay what they were before there were any.
    more: dict[str, object] = {}
    if row.reference is not None:
        more["reference"] = _reference_state(row.reference, hashes)
    if row.description is not None:
        more["description"] = {
            **_description_state(row.description, hashes),
            # Whose cloth and which picture shall not inform this one.
            "product": row.product,
            "target": hashes(row.target),
            "words": words,
        }
    return sha256_json(
        {
            **more,
            "source": hashes(row.source),
            "pose": hashes(row.pose),
            "pose_size": row.pose_size,
            "parsing": hashes(row.parsing),
            "label_set": row.label_set,
            "seed": seed,
            "fingerprint": fingerprint,
        }
    )


def _reference_state(reference: Reference, hashes: FileHashes) -> dict[str, object]:
    """Return all of a reference that decides a picture; the order of its regions does not."""
    return {
        "photo": hashes(reference.photo),
        "regions": sorted(reference.regions),
        "mask": hashes(reference.mask),
        "parsing": hashes(reference.parsing),
        "label_set": reference.label_set,
    }


def _description_state(asked: Description, hashes: FileHashes) -> dict[str, object]:
    """Return all of a description that decides a picture; the order of names does not."""
    return {
        "prompt": asked.prompt,
        "pose_map": hashes(asked.pose_map),
        "label_set": asked.label_set,
        "keep": None if asked.keep is None else sorted(asked.keep),
        "region_prompts": dict(asked.region_prompts),
        "exclude_products": sorted(asked.exclude_products),
    }


def make_plan(
    rows: Iterable[Row],
    outcomes: Mapping[str, Outcome],
    *,
    run_folder: Path,
    fingerprint: str,
    seed: int,
    retry_failed: bool = True,
    words: str | None = None,
) -> Plan:
    """Decide for every row whether it is left to do; `rows` is read once and only jobs are kept.

    A row is done if the ledger's `outcomes` say so under the digest of today and its picture lies
    in the run folder with the recorded hash. A failed row is left to do if `retry_failed`. `words`
    is that of `row_digest`.
    """
    hashes = FileHashes()
    jobs: list[Job] = []
    known: dict[str, Outcome] = {}
    changed = 0
    for row in rows:
        own_seed = row_seed(seed, row.id) if row.seed is None else row.seed
        digest = row_digest(row, own_seed, fingerprint, hashes, words)
        outcome = outcomes.get(row.id)
        attempt = 1
        if outcome is not None and outcome.digest != digest:
            changed += 1
        elif outcome is not None and _stands(outcome, run_folder):
            known[row.id] = outcome
            if outcome.status == "done" or not retry_failed:
                continue
            attempt = outcome.attempts + 1
        jobs.append(_make_job(row, own_seed, digest, attempt, hashes))
    return Plan(jobs=tuple(jobs), known=known, changed=changed)


def _make_job(row: Row, seed: int, digest: str, attempt: int, hashes: FileHashes) -> Job:
    """Put a job together."""
    source = hashes(row.source)
    key = sha256_json([source or str(row.source), hashes(row.parsing), row.label_set])
    reference = row.reference
    mask = None if reference is None else reference.mask
    return Job(
        row=row,
        seed=seed,
        digest=digest,
        source_sha256=source,
        source_key=key,
        reference_key=None if reference is None else _reference_key(reference, hashes),
        mask_sha256=hashes(mask),
        map_sha256=None if row.description is None else hashes(row.description.pose_map),
        target_sha256=None if row.description is None else hashes(row.target),
        attempt=attempt,
    )


def _reference_key(reference: Reference, hashes: FileHashes) -> str:
    """Return what rows have in common whose reference needs one look: photo and map, no regions."""
    photo = hashes(reference.photo) or str(reference.photo)
    if reference.mask is not None:
        return sha256_json([photo])  # a mask file needs no map
    return sha256_json([photo, hashes(reference.parsing), reference.label_set])


def _stands(outcome: Outcome, run_folder: Path) -> bool:
    """Return whether an outcome still holds: a done row's picture must lie there, unchanged."""
    if outcome.status == "failed":
        return True
    try:
        return sha256_file(run_folder / str(outcome.output)) == outcome.output_sha256
    except OSError:
        return False
