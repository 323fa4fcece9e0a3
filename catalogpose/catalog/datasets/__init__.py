"""Public data sets as their owners distribute them, one module each, read into collections."""
