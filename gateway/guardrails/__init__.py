"""Checks of what goes in and what comes out. One file per kind, each exposing one `Kind`."""
