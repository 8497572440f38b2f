"""One command per figure: ``python -m bench.NAME --seed N --size N --out DIR [--sabotage]``."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the streams part has it
