"""The frozen options of every command; the command line's defaults equal these, by test."""

from catalogpose.config.checks import DEVICES, Progress
from catalogpose.config.importing import DATASETS, KEYPOINTS_REMEDY, ImportOptions
from catalogpose.config.making import PRECISIONS, ROWS, SPLITS, StudioOptions, TrainOptions
from catalogpose.config.models import REPO_ID, InspectOptions, PushOptions
from catalogpose.config.remembering import (
    BuildMemoryOptions,
    MemoryStatsOptions,
    QueryMemoryOptions,
)
from catalogpose.config.running import RUNS, GenerateOptions, ParseOptions, ReportOptions

__all__ = [
    "DATASETS",
    "DEVICES",
    "KEYPOINTS_REMEDY",
    "PRECISIONS",
    "REPO_ID",
    "ROWS",
    "RUNS",
    "SPLITS",
    "BuildMemoryOptions",
    "GenerateOptions",
    "ImportOptions",
    "InspectOptions",
    "MemoryStatsOptions",
    "ParseOptions",
    "Progress",
    "PushOptions",
    "QueryMemoryOptions",
    "ReportOptions",
    "StudioOptions",
    "TrainOptions",
]
