"""How the system steers, for people: its health as a whole, what it changed, what they may do."""
