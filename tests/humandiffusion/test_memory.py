"""The memory of cloth: exact search, leak guard, blending and the gate, on vectors made by hand."""

import dataclasses

import numpy as np
import pytest

from catalogpose.catalog.region_table import RegionTable
from catalogpose.humandiffusion.memory import (
    NEIGHBOURS,
    Memory,
    bring_over,
    drop_near_copies,
    measure_texts,
    refine,
    search,
)
from catalogpose.records import LABEL_ID

SKIRT, SHOE = LABEL_ID["skirt"], LABEL_ID["shoe"]


def unit(vectors: object) -> np.ndarray:
    """Return rows at unit length, float32."""
    array = np.asarray(vectors, dtype=np.float32)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def make_memory(vectors: np.ndarray, labels: list[int], texts: np.ndarray | None = None) -> Memory:
    """Return a memory whose row i is of picture `i` and product `product-(i // 2)`."""
    count = len(labels)
    texts = unit(np.eye(vectors.shape[1])[:2]) if texts is None else texts
    return Memory(
        regions=RegionTable(
            vectors=vectors,
            labels=np.array(labels, dtype=np.uint8),
            areas=np.full(count, 0.1, dtype=np.float32),
            boxes=np.zeros((count, 4), dtype=np.int32),
            pictures=[str(row) for row in range(count)],
            products=[f"product-{row // 2}" for row in range(count)],
            sources=[f"{row}.png" for row in range(count)],
        ),
        texts={
            label: measure_texts(vectors[np.array(labels) == label], texts) for label in set(labels)
        },
    )


def random_memory(count: int = 300, width: int = 16) -> Memory:
    """Return random regions, two thirds skirts and the rest shoes."""
    draw = np.random.default_rng(0)
    skirts = 2 * count // 3
    vectors = unit(draw.normal(size=(count, width)))
    return make_memory(vectors, [SKIRT] * skirts + [SHOE] * (count - skirts))


@pytest.mark.parametrize("chunk", [1 << 26, 500])
def test_search_is_exact_and_keeps_to_the_label(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Every query gets its label's nearest rows, nearest first, in pieces of any size."""
    monkeypatch.setattr("catalogpose.humandiffusion.memory.CHUNK", chunk)
    memory = random_memory()
    queries = unit(np.random.default_rng(1).normal(size=(9, 16)))
    labels = ["skirt", "shoe", "skirt"] * 3
    found = search(memory, queries, labels, count=5)
    for query, label, (rows, cosines) in zip(queries, labels, found, strict=True):
        mine = np.flatnonzero(memory.regions.labels == LABEL_ID[label])
        wanted = mine[np.argsort(-(memory.regions.vectors[mine] @ query), kind="stable")][:5]
        assert rows.tolist() == wanted.tolist()
        assert np.allclose(cosines, memory.regions.vectors[rows] @ query, atol=1e-6)
        assert (np.diff(cosines) <= 0).all()


def test_the_answer_itself_is_never_found() -> None:
    """Products and pictures that are left out count no more, and what remains is still exact."""
    memory = random_memory()
    query = memory.regions.vectors[[10]]
    ((rows, _),) = search(memory, query, ["skirt"], count=3)
    assert rows[0] == 10
    ((rows, _),) = search(memory, query, ["skirt"], count=300, without_products={"product-5"})
    assert len(rows) == 198
    assert not {10, 11} & set(rows.tolist())
    ((rows, _),) = search(memory, query, ["skirt"], count=300, without_pictures={"10"})
    assert len(rows) == 199
    assert 10 not in rows


def test_a_label_without_regions_finds_nothing() -> None:
    """There is no row then, the gate is shut and the text stays as it is."""
    memory, query = random_memory(), unit([1.0] + [0.0] * 15)
    ((rows, cosines),) = search(memory, query[None], ["hat"])
    assert len(rows) == len(cosines) == 0
    answer = refine(memory, query, "hat", rows, cosines)
    assert answer.gate == 0
    assert np.array_equal(answer.vector, query)


def test_equal_regions_come_by_row() -> None:
    """Ties are not decided by the machine."""
    memory = make_memory(unit([[1, 0, 0]] * 20), [SKIRT] * 20)
    ((rows, _),) = search(memory, unit([[1, 1, 0]]), ["skirt"])
    assert rows.tolist() == list(range(NEIGHBOURS))


def test_the_gate_opens_with_nearness() -> None:
    """Cloth that is near replaces the words; where nothing is near they are only brought over."""
    regions = unit([[1, 0, 0.2, 0], [0, 1, 0.2, 0]])
    texts = unit([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, -1, 0, 1]])
    memory = make_memory(regions, [SKIRT, SKIRT], texts)

    def ask(query: np.ndarray) -> tuple[float, np.ndarray]:
        ((rows, cosines),) = search(memory, query[None], ["skirt"])
        answer = refine(memory, query, "skirt", rows, cosines)
        assert np.isclose(np.linalg.norm(answer.vector), 1, atol=1e-5)
        return answer.gate, answer.vector

    near, vector = ask(unit([1, 0, 0.2, 0]))
    assert near > 0.8
    assert vector @ regions[0] > 0.95
    far, vector = ask(unit([-1, -1, 0, 1]))
    assert far < 0.01
    moved = unit(unit([-1, -1, 0, 1]) + memory.texts[SKIRT].gap)
    assert vector @ moved > 0.99
    assert bring_over(memory, unit([-1, -1, 0, 1]), "skirt") @ moved > 0.999
    assert far < ask(unit([0.5, 0, 0, 1]))[0] < near


def test_only_near_regions_are_trusted() -> None:
    """Of a red and a green skirt, red words look at the red one beside their feature, blue words at
    neither.
    """
    colours = unit(np.eye(4)[:3])
    memory = make_memory(colours[:2], [SKIRT, SKIRT], colours)
    for query, trusted in ((colours[0], 1), (colours[2], 0)):
        ((rows, cosines),) = search(memory, query[None], ["skirt"])
        answer = refine(memory, query, "skirt", rows, cosines)
        assert answer.trusted == trusted
        assert (answer.gate >= 0.5) == bool(trusted)


def test_what_a_catalogue_happens_to_hold_cancels_out() -> None:
    """Texts differ from regions by one step along the third axis; a catalogue of one colour
    measures that very gap, and none of its colour, as one of all colours does.
    """
    colours = np.eye(4)[[0, 1, 3]]
    regions = colours + np.array([0, 0, 0.5, 0])
    for held in ([0], [0, 1, 2]):
        usual = measure_texts(regions[held].astype(np.float32), colours.astype(np.float32))
        np.testing.assert_allclose(usual.gap, [0, 0, 0.5, 0], atol=1e-6)
        assert usual.near == pytest.approx(1)
        assert usual.spread == pytest.approx(np.std([1, 0, 0]))


def test_a_label_whose_regions_are_all_left_out_keeps_its_words() -> None:
    """Nothing of the row's own product may speak, not even through what was measured on it."""
    memory = make_memory(unit([[1, 0, 0], [0.9, 0.1, 0]]), [SKIRT] * 2)
    query = unit([0, 1, 0.5])
    ((rows, cosines),) = search(memory, query[None], ["skirt"], without_products={"product-0"})
    answer = refine(memory, query, "skirt", rows, cosines)
    assert answer.gate == 0
    assert np.array_equal(answer.vector, query)


def test_nearer_regions_weigh_more() -> None:
    """The blend leans to the best, by a softmax of cosines."""
    memory = make_memory(unit([[1, 0, 0], [0.9, 0.44, 0]]), [SKIRT, SKIRT])
    query = unit([1, 0, 0.1])
    ((rows, cosines),) = search(memory, query[None], ["skirt"])
    usual = dataclasses.replace(memory.texts[SKIRT], near=-1.0, spread=0.01)
    memory = dataclasses.replace(memory, texts={SKIRT: usual})
    weights = np.exp((cosines - 1) / 0.02)
    wanted = unit(weights @ memory.regions.vectors[rows])
    assert np.allclose(refine(memory, query, "skirt", rows, cosines).vector, wanted, atol=1e-4)


def test_near_copies_of_one_group_go() -> None:
    """Of rows that nearly agree the first stays; other groups do not matter."""
    vectors = unit([[1, 0], [1, 0.01], [0, 1], [1, 0], [0.01, 1]])
    assert drop_near_copies(vectors, ["a", "a", "a", "b", "a"]).tolist() == [0, 2, 3]
