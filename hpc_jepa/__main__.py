"""``python -m hpc_jepa`` is ``hpc-jepa``."""

from hpc_jepa.cli import main

if __name__ == "__main__":
    main()
