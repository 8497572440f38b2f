"""Live tables: pure folds over the log, run by Faust, exact under restarts."""
