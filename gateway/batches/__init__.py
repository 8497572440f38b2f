"""Files and batches: kept in the log, run by whichever worker claims them first."""
