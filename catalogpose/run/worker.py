"""One device at work: it opens the model once and turns each job into an outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catalogpose import __version__
from catalogpose.catalog.canvas import fit_joints
from catalogpose.catalog.files import output_name
from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.catalog.poses import read_pose
from catalogpose.catalog.provenance import Provenance, write_picture
from catalogpose.errors import EnvironmentFault, RowError
from catalogpose.records import LABEL_ID, LABELS, Outcome
from catalogpose.run.describing import Described, Describer, load_memory
from catalogpose.run.memory import Memory, SeenReference, Source
from catalogpose.run.plan import Job, model_fingerprint
from catalogpose.run.process import IMAGES, WorkerSettings, failed_outcome

if TYPE_CHECKING:  # torch takes seconds to import, and the parent process must not need it
    from catalogpose.humandiffusion.text_driven import TextDriven
    from catalogpose.truepose.prepared import KeptReference, PoseConditions

SOFTWARE = ("torch", "diffusers")
"""Distributions whose versions each picture names, beside this package's own."""

OWN_COLUMNS = ("row_id", "product", "source_sha256", "seed", "reference_regions", "prompt")
"""Provenance that an outcome or its row holds anyway."""

OOM = RowError("generate", "oom", "the GPU's memory is too small for this row")
"""Why a row fails that does not fit even alone."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A job whose row is read and understood, ready for the sampler."""

    job: Job
    """The job."""
    source: Source | None
    """Its source; None where words alone say what to paint."""
    described: Described | None
    """What words say; None where the row has none."""
    seen: SeenReference | None
    """Its reference; None where the row has none."""
    kept: KeptReference | None
    """The reference as the sampler takes it; None where the row has none."""
    shown: frozenset[int]
    """Label ids that the pose shows."""
    conditions: PoseConditions
    """Its source as this pose shows it."""
    joints: NDArray[np.float32]
    """(18, 3) in canvas pixels."""
    seconds: float
    """Time that the preparation took."""


class Worker:
    """The real worker: eyes and pipeline on one device, and what it remembers of recent photos."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Open the model; EnvironmentFault where torch cannot use the device."""
        import torch

        from catalogpose.run.perceive import Perception
        from catalogpose.truepose.pipeline import load_pipeline

        torch.set_num_threads(settings.threads)
        # In this process the one visible GPU is always the first.
        device = "cpu" if settings.device == "cpu" else "cuda:0"
        if device != "cpu" and not torch.cuda.is_available():
            raise EnvironmentFault("torch cannot use the GPU here; --device cpu works without")
        self._settings = settings
        self._pipe = load_pipeline(settings.model, device)
        self._eyes = Perception(settings.model, settings.cache, device)
        self._table = load_keypoint_table(settings.keypoint_table)
        self._most = settings.batch
        self._memory = Memory(self._pipe, self._eyes)
        self._constants = {
            "fingerprint": settings.fingerprint,
            "keypoint_table": keypoint_table_hash(self._table),
            "device": settings.device.partition(":")[0],
        }
        self._model = model_fingerprint(settings.model, self._pipe.card)
        # A checkout that is on the path but not installed has no version but its own word.
        versions = {"catalogpose": __version__, **{name: version(name) for name in SOFTWARE}}
        self._software = ", ".join(f"{name} {number}" for name, number in versions.items())
        self._out_of_memory = torch.OutOfMemoryError

    def work(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs, sampled together; return one outcome each.

        Raises EnvironmentFault where pictures cannot be written, and whatever a bug raises.
        """
        settings = self._settings
        outcomes: list[Outcome] = []
        prepared: list[_Prepared] = []
        for job in jobs:
            started = time.perf_counter()
            try:
                prepared.append(self._prepare(job, started))
            except RowError as error:
                outcomes.append(failed_outcome(job, settings, error, time.perf_counter() - started))
            except self._out_of_memory:
                outcomes.append(failed_outcome(job, settings, OOM, time.perf_counter() - started))
        # Rows with words add to the net's pass what the others do not, so they go apart.
        prepared.sort(key=lambda row: row.described is not None)
        while prepared:
            alike = [
                r for r in prepared if (r.described is None) == (prepared[0].described is None)
            ]
            batch = alike[: self._most]
            done = self._paint(batch)
            if done is not None:
                outcomes += done
                prepared = prepared[len(batch) :]
            elif len(batch) > 1:
                self._most = len(batch) // 2
            else:
                outcomes.append(failed_outcome(batch[0].job, settings, OOM, batch[0].seconds))
                prepared = prepared[1:]
        return outcomes

    def close(self) -> None:
        """Write to the cache what is not there yet."""
        self._eyes.flush()

    def _prepare(self, job: Job, started: float) -> _Prepared:
        """Read a row's pose and look at its photos, unless they are still known."""
        from catalogpose.truepose.regions import selected_labels

        row, card = job.row, self._pipe.card
        if row.description is not None:
            return self._prepare_described(job, started)
        source = self._memory.source(job)
        seen = kept = None
        if row.reference is not None:
            seen = self._memory.reference(job, row.reference)
            marked = seen.painted(row.reference)
            kept = self._pipe.keep_reference(seen.latent, marked, seen.picture)
        assert row.pose is not None  # rows without a description have one
        pose = read_pose(row.pose, size=row.pose_size, fallback=(seen or source).size)
        joints = fit_joints(pose, card.width, card.height)
        shown = selected_labels(joints, self._table)
        return _Prepared(
            job=job,
            source=source,
            described=None,
            seen=seen,
            kept=kept,
            shown=shown,
            conditions=self._memory.conditions(job, source, shown),
            joints=joints,
            seconds=time.perf_counter() - started,
        )

    def _prepare_described(self, job: Job, started: float) -> _Prepared:
        """Read a text-driven row's map, pose and source, and find cloth for its words."""
        row, card = job.row, self._pipe.card
        asked = self._describer.read(row, card.width, card.height)
        source = None
        if row.source is not None:
            source = self._memory.kept_source(job, asked.wanted.kept, self._text)
        described = self._describer.describe(job, asked, source)
        if row.pose is None:
            joints = np.zeros((18, 3), dtype=np.float32)
        else:
            pose = read_pose(row.pose, size=row.pose_size, fallback=described.size)
            joints = fit_joints(pose, card.width, card.height)
        return _Prepared(
            job=job,
            source=source,
            described=described,
            seen=None,
            kept=None,
            shown=frozenset(LABEL_ID[name] for name in described.regions),
            conditions=described.conditions,
            joints=joints,
            seconds=time.perf_counter() - started,
        )

    @cached_property
    def _text(self) -> TextDriven:
        """The model's alignment over its pipeline, loaded; only text-driven rows need it."""
        from catalogpose.humandiffusion.text_driven import TextDriven, load_alignment

        return TextDriven(self._pipe, load_alignment(self._settings.model))

    @cached_property
    def _describer(self) -> Describer:
        """What finds cloth for words; the memory is read once."""
        path, folder = self._settings.memory, self._settings.model
        memory = None if path is None else load_memory(path, folder)
        return Describer(self._text, self._eyes, memory)

    def _paint(self, batch: Sequence[_Prepared]) -> list[Outcome] | None:
        """Sample a batch and write its pictures; None if the GPU's memory was too small."""
        import torch

        started = time.perf_counter()
        pictures = None
        # The traceback holds memory, so what it held is freed below, outside of it.
        with suppress(self._out_of_memory):
            pictures = self._pipe.generate(
                [row.conditions for row in batch],
                np.stack([row.joints for row in batch]),
                [row.job.seed for row in batch],
                references=[row.kept for row in batch],
                steps=self._settings.steps,
                guidance=self._settings.guidance,
            )
        if pictures is None:
            self._memory.clear()
            torch.cuda.empty_cache()
            return None
        share = (time.perf_counter() - started) / len(batch)
        return [self._write(*pair, share) for pair in zip(batch, pictures, strict=True)]

    def _write(self, row: _Prepared, picture: NDArray[np.uint8], share: float) -> Outcome:
        """Write one picture with its provenance; `share` is its part of the batch's seconds."""
        started = time.perf_counter()
        job, settings = row.job, self._settings
        provenance = self._provenance(row)
        output = f"{IMAGES}/{output_name(job.row.id)}"
        try:
            sha256 = write_picture(settings.run_folder / output, picture, provenance)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot write {settings.run_folder / output}: {error}"
            ) from error
        known = dataclasses.asdict(provenance).items()
        facts = {k: v for k, v in known if k not in OWN_COLUMNS and v is not None}
        return Outcome(
            id=job.row.id,
            digest=job.digest,
            status="done",
            output=output,
            output_sha256=sha256,
            source_sha256=None if row.source is None else row.source.sha256,
            seed=job.seed,
            attempts=job.attempt,
            seconds=round(row.seconds + share + time.perf_counter() - started, 4),
            device=settings.device,
            fingerprint=settings.fingerprint,
            facts={**facts, "fallback": _fallback(row)},
        )

    def _provenance(self, row: _Prepared) -> Provenance:
        """Return where a row's picture comes from."""
        job, settings, reference = row.job, self._settings, row.job.row.reference
        asked, described = job.row.description, row.described
        there = row.shown if row.source is None else row.shown & row.source.regions
        looks = {
            "label_set": job.row.label_set,
            "shown": [LABELS[label] for label in sorted(there)],
            "fallback": _fallback(row),
        }
        if described is not None:
            looks["words"] = settings.words
        return Provenance(
            row_id=job.row.id,
            product=job.row.product,
            source_sha256=None if row.source is None else row.source.sha256,
            prompt=None if asked is None else asked.prompt,
            pose_map_sha256=job.map_sha256,
            region_sources=None if described is None else json.dumps(described.regions),
            memory_sha256=None if described is None else settings.memory_sha256,
            reference_sha256=row.seen.sha256 if row.seen else None,
            reference_regions=", ".join(reference.regions) or None if reference else None,
            reference_mask_sha256=job.mask_sha256,
            pose_digest=hashlib.sha256(row.joints.tobytes()).hexdigest(),
            model=self._pipe.card.name,
            model_fingerprint=self._model,
            seed=job.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            settings=json.dumps({**self._constants, **looks}, sort_keys=True),
            software=self._software,
        )


def _fallback(row: _Prepared) -> str | None:
    """Name what took the place of shown regions that the source lacks; None where it has some."""
    return "whole-person" if row.conditions.fallback else None
