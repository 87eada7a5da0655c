"""`python -m lexp`, for launchers that start a module (torchrun)."""

if __name__ == "__main__":
    from lexp.system.children import leave_current_folder

    leave_current_folder()

    from lexp.cli.main import main

    main()
