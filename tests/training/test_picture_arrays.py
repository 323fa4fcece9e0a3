"""The arrays on disk: a kill leaves nothing that counts as done and is not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalogpose.training.picture_arrays import DONE, open_arrays, save_arrays


def open_two(folder: Path) -> dict[str, Any]:
    """Open the arrays of two small pictures."""
    return open_arrays(folder, 2, (16, 8), (4, 2, 1), 3, photos=True)


def test_a_half_made_array_is_made_again(tmp_path: Path) -> None:
    """What a kill left under the temporary name does no harm, and goes."""
    (tmp_path / "latents.npy.partial").write_bytes(b"\x93NUMPY half a header")
    arrays = open_two(tmp_path)
    assert arrays["latents"].shape == (2, 4, 2, 1)
    assert arrays["photos"].shape == (2, 16, 8, 3)
    assert not list(tmp_path.glob("*.partial"))
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == sorted(arrays)


def test_nothing_is_done_before_it_is_on_disk(tmp_path: Path) -> None:
    """Where an array cannot be written, the state on disk still says that it waits."""

    class Full(dict):
        """Stands for an array on a full disk."""

        def flush(self) -> None:
            """Fail."""
            raise OSError("no room")

    arrays, state = open_two(tmp_path), np.full(2, DONE, np.uint8)
    with pytest.raises(OSError, match="no room"):
        save_arrays({**arrays, "zeros": Full()}, state)
    assert not np.load(tmp_path / "state.npy").any()
    save_arrays(arrays, state)
    assert np.load(tmp_path / "state.npy").tolist() == [DONE, DONE]
