"""``python -m modelkeep``: the same as the command ``modelkeep``."""

from modelkeep.cli import main

if __name__ == "__main__":
    main()
