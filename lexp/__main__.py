"""`python -m lexp`, for launchers that start a module (torchrun)."""

from lexp.cli.main import main

if __name__ == "__main__":
    main()
