"""Live tables: pure folds over the log, run by Faust, exact under restarts."""

READY_FILE = "ready"
"""In the part's folder: has the process id of streams whose folds have all got their partitions."""
