"""The folds, one file each: a new file here is a new live table."""
