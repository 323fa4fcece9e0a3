"""`python -m catalogpose`: the same command line."""

from catalogpose.cli import main

if __name__ == "__main__":
    main()
