"""How good a picture is, one family of metrics a file, and the page that shows it."""
