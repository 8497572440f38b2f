"""`python -m infra.start NAME [-]`: one part of the installation, as the supervisor starts it."""

import logging
import os
import sys

from infra import compiled


def main() -> None:
    """Run the part; a gateway worker by its compiled modules, where there are any."""
    if sys.argv[1].startswith("gateway"):
        _prefer_compiled()
    # Only now: what this imports is what may be compiled.
    from infra.part import main as run

    run()


def _prefer_compiled() -> None:
    """Import the compiled modules; where they cannot be, begin anew without them and say so."""
    try:
        if compiled.prefer():
            compiled.load()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with them, calls are to be served
        from infra.telemetry import configure

        configure(sys.argv[1], "info")
        logging.getLogger("infra.start").error(
            "the compiled modules cannot be used, this worker runs the source: %s. "
            "`make compiled` makes them anew",
            error,
        )
        # The same process with nothing half imported; its standard input has not been read.
        os.environ[compiled.OFF_VARIABLE] = "damaged"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
