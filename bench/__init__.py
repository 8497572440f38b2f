"""One command per figure: ``python -m bench.NAME --seed N --size N --out DIR [--sabotage]``."""
