"""`python -m trivium`: the command line, where its script is not on the path."""

from trivium.cli import main

if __name__ == "__main__":
    main()
