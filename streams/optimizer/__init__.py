"""What the optimizer sees and its rules. One file per rule, each exposing one `Rule`."""
