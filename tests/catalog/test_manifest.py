import csv
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalogpose.catalog.manifest import (
    check_manifest,
    read_extra_schema,
    read_rows,
    write_manifest,
)
from catalogpose.errors import ManifestError, UsageError
from catalogpose.records import Reference, Row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a photo, a map, a good pose, one without joints inside and a bad one."""
    (tmp_path / "a.png").write_bytes(b"")  # a broken photo is no fault of the manifest
    (tmp_path / "map.png").write_bytes(b"")
    numbers = [5, 6, 1] * 18
    (tmp_path / "p.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))
    numbers = [-50, -60, 1] * 18
    (tmp_path / "out.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))
    (tmp_path / "bad.json").write_text("{")
    return tmp_path


def save_csv(folder: Path, header: str, *lines: str) -> Path:
    """Write a CSV manifest of these lines."""
    path = folder / "m.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def save_parquet(folder: Path, **columns: object) -> Path:
    """Write a Parquet manifest of these columns; source and pose are filled in."""
    count = len(columns["id"])  # type: ignore[arg-type]
    full = {"source": ["a.png"] * count, "pose": ["p.json"] * count, **columns}
    pq.write_table(pa.table(full), folder / "m.parquet")
    return folder / "m.parquet"


def faults(path: Path) -> list[str]:
    """Return the faults of a manifest."""
    with pytest.raises(ManifestError) as caught:
        check_manifest(path)
    assert str(caught.value) == "\n".join(caught.value.faults)
    assert all("\n" not in fault and fault.isprintable() for fault in caught.value.faults)
    return list(caught.value.faults)


def test_text_stays_text_in_csv(folder: Path) -> None:
    """`00123` keeps its zeros and `NA` is a word; an empty cell is None."""
    path = save_csv(
        folder, "id,source,pose,product,note", "00123,a.png,p.json,007,NA", "NA,a.png,p.json,,"
    )
    assert check_manifest(path) == 2
    first, second = read_rows(path)
    assert (first.id, first.product, first.extra) == ("00123", "007", {"note": "NA"})
    assert (second.id, second.product, second.extra) == ("NA", None, {"note": None})


def test_whole_number_ids_in_parquet_become_text(folder: Path) -> None:
    """Integers, as ids or products, are read as their digits."""
    path = save_parquet(folder, id=[1, 2], product=pa.array([7, None], pa.int32()))
    assert [(row.id, row.product) for row in read_rows(path)] == [("1", "7"), ("2", None)]
    assert check_manifest(path) == 2


def test_all_columns_are_read(folder: Path) -> None:
    """Paths are resolved against the manifest's folder, numbers are numbers, the rest is extra."""
    path = save_csv(
        folder,
        "id,source,pose,pose_width,pose_height,target,product,seed,parsing,label_set,shop",
        f"x,a.png,{folder}/p.json,352,512,a.png,shirt,9223372036854775807,map.png,lip,Köln",
    )
    assert check_manifest(path) == 1
    assert list(read_rows(path)) == [
        Row(
            number=1,
            id="x",
            source=folder / "a.png",
            pose=folder / "p.json",
            pose_size=(352, 512),
            target=folder / "a.png",
            product="shirt",
            seed=2**63 - 1,
            parsing=folder / "map.png",
            label_set="lip",
            extra={"shop": "Köln"},
        )
    ]


def test_numbers_that_pandas_made_floats(folder: Path) -> None:
    """Whole floats and NaN, as gaps make them, are whole numbers and gaps."""
    nan = float("nan")
    path = save_parquet(folder, id=["a", "b"], pose_width=[352.0, nan], pose_height=[512.0, nan])
    assert [row.pose_size for row in read_rows(path)] == [(352, 512), None]
    path = save_csv(folder, "id,source,pose,seed", "a,a.png,p.json,7.0")
    assert [row.seed for row in read_rows(path)] == [7]


def test_kinds_of_parquet_text(folder: Path) -> None:
    """Large strings and dictionaries of strings are text as well."""
    ids = pa.array(["a", "b"], pa.large_string())
    sources = pa.array(["a.png", "a.png"]).dictionary_encode()
    assert check_manifest(save_parquet(folder, id=ids, source=sources)) == 2


def test_the_exact_lines_of_faults(folder: Path) -> None:
    """The two commonest faults read exactly like this, whatever else is wrong."""
    path = save_csv(
        folder, "id,source,pose", "a,a.png,p.json", "b,a.png,p.json", "a,gone.png,p.json"
    )
    assert faults(path) == [
        "row 3, column source: missing file gone.png",
        "row 3, column id: duplicate id 'a'",
    ]


def test_every_fault_is_found_at_once(folder: Path) -> None:
    """All rows and columns are checked before anything is reported, in the order of the rows."""
    path = save_csv(
        folder,
        "id,source,pose,pose_width,pose_height,target,seed,parsing,label_set",
        ",a.png,p.json,,,,,,",
        "b,,bad.json,352,,,,,",
        "c,a.png,,0,-1,gone/t.png,,,",
        "d,a.png,p.json,,,,-1,map.png,",
        "e,a.png,p.json,,,,1.5,nomap.png,lipp",
    )
    known = "common, lip, cihp, atr, fashn, sapiens, sapiens2, deepfashion-multimodal, pascal"
    assert faults(path) == [
        "row 1, column id: empty",
        "row 2, column source: empty",
        "row 2, column pose_height: empty beside pose_width; give both or neither",
        "row 2, column pose: unreadable file bad.json; the pose is not JSON",
        "row 3, column pose: empty",
        "row 3, column pose_width: 0 is not a whole number from 1 to 65536",
        "row 3, column pose_height: -1 is not a whole number from 1 to 65536",
        "row 3, column target: missing file gone/t.png",
        "row 4, column seed: -1 is not a whole number from 0 to 9223372036854775807",
        "row 4, column label_set: empty beside parsing; name the map's label set",
        "row 5, column seed: 1.5 is not a whole number from 0 to 9223372036854775807",
        f"row 5, column label_set: unknown label set 'lipp'; known: {known}",
        "row 5, column parsing: missing file nomap.png",
    ]


@pytest.mark.parametrize("seed", ["9223372036854775808", "1e3", "0x1", "\u0661", "1_0", "true"])
def test_wrong_seeds(folder: Path, seed: str) -> None:
    """Only plain digits up to 2**63 - 1 are a seed."""
    (fault,) = faults(save_csv(folder, "id,source,pose,seed", f"a,a.png,p.json,{seed}"))
    assert fault.startswith(f"row 1, column seed: {seed} is not a whole number")


def test_poses_without_joints_inside_and_broken_photos_pass(folder: Path) -> None:
    """They fail their own rows later; the manifest is not at fault."""
    assert check_manifest(save_csv(folder, "id,source,pose", "a,a.png,out.json")) == 1


def test_ids_and_paths_cannot_break_a_line(folder: Path) -> None:
    """Line breaks, escapes and right-to-left marks are shown escaped."""
    path = folder / "m.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [["a\nb\x1b\u202e", "a.png", "p.json"], ["a\nb\x1b\u202e", "x\ny.png", "p.json"]]
        csv.writer(file).writerows([["id", "source", "pose"], *rows])
    assert faults(path) == [
        r"row 2, column source: missing file 'x\ny.png'",
        r"row 2, column id: duplicate id 'a\nb\x1b\u202e'",
    ]


def test_each_repetition_of_an_id_is_a_fault(folder: Path) -> None:
    """The first row with an id is none; the others are, also far away and in Parquet."""
    ids = [str(number) for number in range(6000)] + ["17", "5999", "17"]
    path = save_parquet(folder, id=ids)
    assert faults(path) == [
        "row 6001, column id: duplicate id '17'",
        "row 6002, column id: duplicate id '5999'",
        "row 6003, column id: duplicate id '17'",
    ]


def test_missing_columns(folder: Path) -> None:
    """Each required column that is not there is named."""
    assert faults(save_csv(folder, "id,photo", "a,b")) == [
        "column source: missing; a manifest has the columns id, source and pose",
        "column pose: missing; a manifest has the columns id, source and pose",
    ]


def test_misspelt_columns_of_references_are_refused(folder: Path) -> None:
    """They would be carried through as extra columns, and the row re-posed instead."""
    (fault,) = faults(save_csv(folder, "id,source,pose,reference_region", "a,a.png,p.json,x"))
    assert fault.startswith("column reference_region: unknown; known are reference, reference_pose")


STYLE = "id,source,pose,reference,reference_pose,reference_regions"


def test_rows_with_and_without_a_reference(folder: Path) -> None:
    """The reference's pose is the row's pose; regions and ready maps of references are read."""
    path = save_csv(
        folder,
        f"{STYLE},reference_parsing,reference_label_set",
        'a,a.png,,a.png,p.json,"upper-clothes, skirt",map.png,atr',
        "b,a.png,p.json,,,,,",
    )
    assert check_manifest(path) == 2
    styled, plain = read_rows(path)
    assert styled.pose == folder / "p.json"
    assert styled.reference == Reference(
        photo=folder / "a.png",
        regions=("upper-clothes", "skirt"),
        parsing=folder / "map.png",
        label_set="atr",
    )
    assert (plain.reference, plain.extra) == (None, {})
    only = save_csv(folder, STYLE.replace("pose,ref", "ref", 1), "a,a.png,a.png,p.json,hat")
    assert check_manifest(only) == 1


def test_every_fault_of_a_reference(folder: Path) -> None:
    """Each is one line that names the column, before any photo is decoded."""
    path = save_csv(
        folder,
        f"{STYLE},reference_parsing,reference_label_set",
        "a,a.png,p.json,a.png,p.json,hat,,",
        "b,a.png,,a.png,,,,",
        "c,a.png,,,p.json,hat,,",
        "d,a.png,,a.png,bad.json,shirt,,",
        "e,a.png,,gone.png,p.json,gone-mask.png,,",
        "f,a.png,,a.png,p.json,map.png,,",
        "g,a.png,,a.png,p.json,hat,map.png,",
        "h,a.png,,a.png,p.json,hat,gone-map.png,x",
    )
    found = [re.sub(r"(give labels|known:).*", r"\1", fault) for fault in faults(path)]
    assert found == [
        "row 1, column pose: given beside reference; leave it empty, the pose is reference_pose's",
        "row 2, column reference_pose: empty beside reference",
        "row 2, column reference_regions: empty beside reference",
        "row 3, column pose: empty",
        "row 3, column reference_pose: given without reference; give both or neither",
        "row 3, column reference_regions: given without reference; give both or neither",
        "row 4, column reference_regions: unknown label 'shirt'; give labels",
        "row 4, column reference_pose: unreadable file bad.json; the pose is not JSON",
        "row 5, column reference: missing file gone.png",
        "row 5, column reference_regions: missing file gone-mask.png",
        "row 6, column reference_regions: mask 'map.png' is not a PNG that can be read",
        "row 7, column reference_label_set: empty beside reference_parsing; "
        "name the map's label set",
        "row 8, column reference_label_set: unknown label set 'x'; known:",
        "row 8, column reference_parsing: missing file gone-map.png",
    ]


def test_masks_and_poses_are_held_against_the_reference(folder: Path) -> None:
    """A mask of another size and a pose on another canvas are faults of the manifest."""
    Image.new("RGB", (60, 90)).save(folder / "photo.png")
    Image.new("L", (60, 80)).save(folder / "mask.png")
    Image.new("L", (60, 90)).save(folder / "good.png")
    path = save_csv(
        folder,
        f"{STYLE},pose_width,pose_height",
        "a,a.png,,photo.png,p.json,mask.png,60,90",
        "b,a.png,,photo.png,p.json,good.png,90,90",
        "c,a.png,,photo.png,p.json,good.png,600,900",
    )
    first, second = faults(path)
    assert first == (
        "row 1, column reference_regions: the mask has 60x80 pixels, the upright reference 60x90"
    )
    assert second.startswith("row 2, column reference_pose: its canvas of 90x90 has another shape")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_references_lead_to_the_same_files(folder: Path, suffix: str) -> None:
    """`failures.parquet` is a manifest of style rows as well, from wherever it lies."""
    Image.new("L", (60, 80)).save(folder / "mask.png")
    path = save_csv(
        folder,
        f"{STYLE},reference_parsing,reference_label_set",
        'a,a.png,,a.png,p.json,"hat,skirt",map.png,atr',
        "b,a.png,,a.png,p.json,mask.png,,",
        "c,a.png,p.json,,,,,",
    )
    rows = list(read_rows(path))
    write_manifest(folder / "runs" / f"w{suffix}", rows)
    again = list(read_rows(folder / "runs" / f"w{suffix}"))
    assert check_manifest(folder / "runs" / f"w{suffix}") == 3
    for row, written in zip(rows, again, strict=True):
        assert written.pose.resolve() == row.pose
        assert (written.reference is None) == (row.reference is None)
        if row.reference is not None and written.reference is not None:
            files = {
                name: path.resolve()
                for name in ("photo", "mask", "parsing")
                if (path := getattr(written.reference, name)) is not None
            }
            assert replace(written.reference, **files) == row.reference


@pytest.mark.parametrize(
    "column",
    ["status", "output", "output_sha256", "source_sha256", "stage", "error_class", "error_message",
     "attempts", "seconds", "device", "fingerprint"],
)  # fmt: skip
def test_columns_of_the_results_are_refused(folder: Path, column: str) -> None:
    """results.parquet adds these to the manifest's columns."""
    path = save_csv(folder, f"id,source,pose,{column}", "a,a.png,p.json,x")
    assert faults(path) == [f"column {column}: the name belongs to results.parquet; rename it"]


def test_columns_of_a_wrong_kind(folder: Path) -> None:
    """A float id would not be the same text twice, so it is refused for the whole column."""
    assert faults(save_parquet(folder, id=[1.5], seed=[[1]])) == [
        "column id: holds double; write text or whole numbers",
        "column seed: holds list<element: int64>; write text or whole numbers",
    ]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("m.csv", b"", "the file is empty"),
        ("m.csv", b"id,source,pose\n", "the manifest has no rows"),
        ("m.csv", b"id,source,pose\n\n\n", "the manifest has no rows"),
        ("m.csv", b"id,source,id\n", "column 'id' is there twice; rename or remove one"),
        ("m.csv", b"id,,pose\n", "a column has no name; name it or remove it"),
        ("m.csv", b"id,source,pose\n\xff,a,b\n", "is not UTF-8 text; save it as CSV UTF-8"),
        ("m.csv", b"id,source,pose\na,a.png\n", "row 1 has 2 cells, the header has 3; quote cells"),
        ("m.csv", b'id,source,pose\na,"a.png,b\n', "line 2 is not CSV: unexpected end of data"),
        ("m.parquet", b"", "cannot be read as Parquet: Parquet file size is 0 bytes"),
        ("m.parquet", b"PAR1nonsense", "cannot be read as Parquet: "),
        ("m.xlsx", b"x", "not a manifest; give a file that ends in .parquet or .csv"),
    ],
)
def test_unreadable_manifests(folder: Path, name: str, content: bytes, fault: str) -> None:
    """Each is one line that names the file and the reason."""
    (folder / name).write_bytes(content)
    (line,) = faults(folder / name)
    assert line.startswith(f"{folder / name}: {fault}")


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    """It is a fault like others, for reading as for checking."""
    assert faults(tmp_path / "m.csv") == [f"{tmp_path / 'm.csv'}: no such file"]
    with pytest.raises(ManifestError, match="no such file"):
        next(read_rows(tmp_path / "m.csv"))


def test_a_damaged_parquet_file(folder: Path) -> None:
    """Damage in the middle is reported as a fault, not as a traceback."""
    path = save_parquet(folder, id=[f"row {number}" for number in range(1000)])
    content = bytearray(path.read_bytes())
    content[20:900] = b"\xff" * 880
    path.write_bytes(content)
    assert any("cannot be read as Parquet" in fault for fault in faults(path))


def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path) -> None:
    """Excel's CSV UTF-8 starts with one, and ends lines with CR LF."""
    (folder / "m.csv").write_bytes(b"\xef\xbb\xbfid,source,pose\r\na,a.png,p.json\r\n")
    assert [row.id for row in read_rows(folder / "m.csv")] == ["a"]


def test_reading_stops_at_a_faulty_row(folder: Path) -> None:
    """Rows before it are given; its faults are raised."""
    rows = read_rows(save_csv(folder, "id,source,pose", "a,a.png,p.json", ",a.png,"))
    assert next(rows).number == 1
    with pytest.raises(ManifestError, match="row 2, column id: empty"):
        next(rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_written_manifest_leads_to_the_same_files(folder: Path, suffix: str) -> None:
    """Rows come back as they were, though the paths are relative to another folder."""
    path = save_csv(
        folder,
        "id,source,pose,pose_width,pose_height,seed,parsing,label_set,note",
        "001,a.png,p.json,352,512,5,map.png,atr,NA",
        '"x,\ny",a.png,p.json,,,,,,',
    )
    rows = list(read_rows(path))
    written = folder / "runs" / "one" / f"failures{suffix}"
    write_manifest(written, rows)
    assert check_manifest(written) == 2
    again = list(read_rows(written))
    resolved = [
        replace(
            row,
            source=row.source.resolve(),
            pose=row.pose.resolve(),
            parsing=row.parsing and row.parsing.resolve(),
        )
        for row in again
    ]
    assert resolved == rows
    assert again[0].source == written.parent / "../../a.png"


def test_unused_columns_are_left_out(folder: Path) -> None:
    """A short manifest has only the optional columns that some row uses."""
    rows = read_rows(
        save_csv(folder, "id,source,pose,product", "a,a.png,p.json,", "b,a.png,p.json,s")
    )
    write_manifest(folder / "w.parquet", rows)
    assert pq.read_schema(folder / "w.parquet").names == ["id", "source", "pose", "product"]


def test_extra_columns_keep_their_types(folder: Path) -> None:
    """Narrow numbers, times and lists are written as they were, also where a row has none."""
    extra = pa.table(
        {
            "price": pa.array([None, 7], pa.int16()),
            "when": pa.array([datetime(2026, 8, 1, 12), None], pa.timestamp("us")),
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
            "nothing": pa.array([None, None], pa.float32()),
        }
    )
    path = save_parquet(folder, id=["a", "b"], **{n: extra[n] for n in extra.column_names})
    schema = read_extra_schema(path)
    assert schema.names == extra.column_names
    write_manifest(folder / "w.parquet", read_rows(path), extra_schema=schema)
    assert pq.read_table(folder / "w.parquet").select(extra.column_names).equals(extra)


def test_linked_folders_do_not_mislead(folder: Path) -> None:
    """A manifest written through a link finds its photos, since `..` leaves the real folder."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "er")
    rows = list(read_rows(save_csv(folder, "id,source,pose", "a,a.png,p.json")))
    write_manifest(folder / "link" / "w.csv", rows)
    assert check_manifest(folder / "link" / "w.csv") == 1


def test_a_manifest_is_written_as_a_table_only(folder: Path) -> None:
    """Another suffix, or values of two kinds in one column, is a usage error and leaves no file."""
    row = next(read_rows(save_csv(folder, "id,source,pose", "a,a.png,p.json")))
    with pytest.raises(UsageError, match=r"ends in \.parquet or \.csv"):
        write_manifest(folder / "w.txt", [row])
    mixed = [replace(row, extra={"n": 1}), replace(row, id="b", extra={"n": "text"})]
    with pytest.raises(UsageError, match="cannot write"):
        write_manifest(folder / "w.parquet", mixed)
    assert not list(folder.glob("w.*")) + list(folder.glob(".*"))


def test_long_manifests_stream(folder: Path) -> None:
    """More rows than one batch are written and read in order, whatever their later columns use."""
    row = next(read_rows(save_csv(folder, "id,source,pose", "a,a.png,p.json")))
    rows = (replace(row, id=str(n), seed=n if n > 4500 else None) for n in range(5000))
    write_manifest(folder / "w.parquet", rows)
    seeds = [row.seed for row in read_rows(folder / "w.parquet")]
    assert (len(seeds), seeds[4500], seeds[4501]) == (5000, None, 4501)
