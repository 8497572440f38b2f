"""The gateway: serves the hot paths from memory and records every call before its answer ends."""
