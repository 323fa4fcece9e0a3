import pytest

from catalogpose.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"), [("one\ntwo", "one"), ("\n one \ntwo", "one"), ("", "OSError")]
)
def test_a_reason_is_one_line_and_never_empty(message: str, line: str) -> None:
    """A library's message gives its first line; one that says nothing gives its kind."""
    assert first_line(OSError(message)) == line
