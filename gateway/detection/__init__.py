"""What a prompt asks for, by a small trained classifier."""
