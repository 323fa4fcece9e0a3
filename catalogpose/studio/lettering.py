"""A bitmap alphabet of five by seven cells and the words that shirts bear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORDS = ("NOVA", "LUMO", "WAVE", "SOLEA", "MIRU", "TALO", "VEGA", "ORBIT", "DUNE", "FJORD", "KITE",
         "PIXEL", "RIVER", "EMBER", "ATLAS", "ZEST", "HALO", "NORD", "PRISM", "OASIS", "YES",
         "BOLD",
         "CLUB", "GLOW")  # fmt: skip
"""Words of no brand."""

# Rows from the top, five bits each, the leftmost cell first.
GLYPHS = {
    "A": (14, 17, 17, 31, 17, 17, 17), "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14), "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31), "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 14), "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (31, 4, 4, 4, 4, 4, 31), "J": (7, 2, 2, 2, 2, 18, 12),
    "K": (17, 18, 20, 24, 20, 18, 17), "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17), "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14), "P": (30, 17, 17, 30, 16, 16, 16),
    "Q": (14, 17, 17, 17, 21, 18, 13), "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30), "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14), "V": (17, 17, 17, 17, 17, 10, 4),
    "W": (17, 17, 17, 21, 21, 27, 17), "X": (17, 17, 10, 4, 10, 17, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4), "Z": (31, 1, 2, 4, 8, 16, 31),
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 6, 8, 16, 31), "3": (30, 1, 1, 14, 1, 1, 30),
    "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (14, 16, 30, 17, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14), "9": (14, 17, 17, 15, 1, 1, 14),
}  # fmt: skip


def write_cells(word: str) -> NDArray[np.bool_]:
    """Return a word as cells (7, 6 * letters - 1), True where there is ink."""
    cells = np.zeros((7, 6 * len(word) - 1), np.bool_)
    for place, letter in enumerate(word):
        for row, bits in enumerate(GLYPHS[letter]):
            for col in range(5):
                cells[row, place * 6 + col] = bool(bits >> (4 - col) & 1)
    return cells
