"""How traffic is shared among targets. One file per strategy, each exposing one `Strategy`."""
