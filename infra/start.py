"""`python -m infra.start NAME [-]`: one part of the installation, as the supervisor starts it."""

import sys

from infra import compiled


def main() -> None:
    """Run the part; a gateway worker by its compiled modules, where there are any."""
    if sys.argv[1].startswith("gateway"):
        compiled.prefer()
    # Only now: what this imports is what may be compiled.
    from infra.part import main as run

    run()


if __name__ == "__main__":
    main()
