"""How requests are authenticated where a fixed header does not do. One file per scheme."""
