import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalogpose.catalog.labels import LABEL_SETS, write_parsing_map
from catalogpose.catalog.manifest import check_manifest, read_rows, write_manifest
from catalogpose.errors import ManifestError
from catalogpose.records import LABEL_ID, LABELS, Description

HEADER = ("id", "source", "pose", "prompt", "pose_map", "label_set", "keep", "region_prompts",
          "exclude_products")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a photo, a map of a face and a skirt, and maps that are none."""
    (tmp_path / "a.png").write_bytes(b"")
    labels = np.zeros((16, 12), dtype=np.uint8)
    labels[2:6, 4:8], labels[8:14, 3:9] = LABEL_ID["face"], LABEL_ID["skirt"]
    write_parsing_map(tmp_path / "map.png", labels)
    write_parsing_map(tmp_path / "nobody.png", np.zeros_like(labels))
    write_parsing_map(tmp_path / "beyond.png", np.full_like(labels, 40))
    Image.new("RGB", (12, 16)).save(tmp_path / "colour.png")
    (tmp_path / "text.png").write_text("no map")
    return tmp_path


def save(folder: Path, *rows: dict[str, str]) -> Path:
    """Write a CSV manifest of text-driven rows; what a row does not say is empty."""
    path = folder / "m.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, restval="")
        writer.writeheader()
        for index, row in enumerate(rows):
            writer.writerow({"id": f"r{index}", **row})
    return path


def faults(path: Path) -> list[str]:
    """Return the faults of a manifest."""
    with pytest.raises(ManifestError) as caught:
        check_manifest(path)
    return list(caught.value.faults)


ASKED = {"prompt": "a red skirt", "pose_map": "map.png", "label_set": "common"}


def test_what_a_row_asks_for_is_read(folder: Path) -> None:
    """Every column of a text-driven row ends up in its description; source and pose may lack."""
    path = save(
        folder,
        {**ASKED},
        {
            **ASKED,
            "source": "a.png",
            "keep": "face, hair,face",
            "region_prompts": '{"skirt": "a kilt, green"}',
            "exclude_products": "p1, p 2,",
        },
        {**ASKED, "exclude_products": '["p,1"]'},
    )
    assert check_manifest(path) == 3
    alone, whole, listed = read_rows(path)
    assert (alone.source, alone.pose, alone.label_set) == (None, None, None)
    assert alone.description == Description(
        prompt="a red skirt", pose_map=folder / "map.png", label_set="common"
    )
    assert whole.source == folder / "a.png"
    assert whole.description == Description(
        prompt="a red skirt",
        pose_map=folder / "map.png",
        label_set="common",
        keep=("face", "hair"),
        region_prompts={"skirt": "a kilt, green"},
        exclude_products=("p1", "p 2"),
    )
    assert listed.description is not None
    assert listed.description.exclude_products == ("p,1",)


def test_source_and_pose_may_be_no_columns(folder: Path) -> None:
    """A manifest of words and maps alone needs neither."""
    pq.write_table(
        pa.table({"id": ["a"], **{k: [v] for k, v in ASKED.items()}}), folder / "m.parquet"
    )
    assert check_manifest(folder / "m.parquet") == 1


def test_every_fault_of_a_description(folder: Path) -> None:
    """Each is one line that names row, column and remedy, before any model is loaded."""
    known = f"known: {', '.join(LABELS[1:])}"
    path = save(
        folder,
        {"prompt": "a red skirt", "label_set": "common"},
        {"pose_map": "map.png", "label_set": "common"},
        {"prompt": "a red skirt", "pose_map": "map.png"},
        {**ASKED, "label_set": "mine"},
        {**ASKED, "keep": "face"},
        {**ASKED, "source": "a.png", "keep": "face,nose"},
        {**ASKED, "region_prompts": "skirt: red"},
        {**ASKED, "region_prompts": '["red"]'},
        {**ASKED, "region_prompts": '{"nose": "red"}'},
        {**ASKED, "region_prompts": '{"skirt": " "}'},
        {**ASKED, "exclude_products": "[1]"},
        {**ASKED, "pose_map": "gone.png"},
        {**ASKED, "pose_map": "colour.png"},
        {**ASKED, "pose_map": "text.png"},
        {**ASKED, "pose_map": "nobody.png"},
        {**ASKED, "pose_map": "beyond.png"},
        {"source": "a.png", "pose": "map.png", "keep": "face"},
    )
    found = faults(path)
    colour, text = repr(str(folder / "colour.png")), repr(str(folder / "text.png"))
    assert found[:16] == [
        "row 1, column pose_map: empty beside prompt; name the map that says what shall be where",
        "row 2, column prompt: empty beside pose_map; say in words what the map's regions shall be",
        "row 3, column label_set: empty beside pose_map; name the map's label set",
        f"row 4, column label_set: unknown label set 'mine'; known: {', '.join(LABEL_SETS)}",
        "row 5, column keep: given without source, which it is kept from; give both or neither",
        f"row 6, column keep: unknown label 'nose'; {known}",
        "row 7, column region_prompts: not JSON: Expecting value: line 1 column 1 (char 0)",
        "row 8, column region_prompts: not a JSON object of texts, such as "
        '{"skirt": "a red tartan skirt"}',
        f"row 9, column region_prompts: unknown label 'nose'; {known}",
        "row 10, column region_prompts: the phrase for skirt is empty; leave the label out",
        'row 11, column exclude_products: not a JSON list of texts, such as ["shirt-7", "suit-3"]',
        "row 12, column pose_map: missing file gone.png",
        f"row 13, column pose_map: parsing map {colour} is mode RGB; save the label ids as an "
        "indexed PNG",
        f"row 14, column pose_map: parsing map {text} is not a PNG",
        "row 15, column pose_map: map 'nobody.png' holds the background alone; draw a person",
        "row 16, column pose_map: the parsing map holds id 40; label set common ends at 27",
    ]
    assert found[16:] == [
        "row 17, column keep: given without prompt; give both or neither",
        "row 17, column pose: unreadable file map.png; the pose is not JSON",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_descriptions_lead_to_the_same_files(folder: Path, suffix: str) -> None:
    """`failures.parquet` is a manifest of text-driven rows as well, from wherever it lies."""
    path = save(
        folder,
        {**ASKED},
        {**ASKED, "source": "a.png", "keep": "hair", "region_prompts": '{"skirt": "kilt"}'},
        {**ASKED, "exclude_products": '["a,b", "c"]'},
    )
    rows = list(read_rows(path))
    write_manifest(folder / "runs" / f"w{suffix}", rows)
    assert check_manifest(folder / "runs" / f"w{suffix}") == 3
    for row, written in zip(rows, read_rows(folder / "runs" / f"w{suffix}"), strict=True):
        assert (written.source is None) == (row.source is None)
        assert written.description is not None
        file = written.description.pose_map.resolve()
        assert replace(written.description, pose_map=file) == row.description
