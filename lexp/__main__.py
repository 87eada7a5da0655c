"""`python -m lexp`, for launchers that start a module (torchrun)."""

from lexp.cli import main

if __name__ == "__main__":
    main()
