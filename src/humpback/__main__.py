"""`python -m humpback`."""

from humpback.cli import main

if __name__ == "__main__":
    main()
