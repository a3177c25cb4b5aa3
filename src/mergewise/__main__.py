"""``python -m mergewise``."""

from mergewise.cli import main

if __name__ == "__main__":
    main()
