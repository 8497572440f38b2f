"""What runs Weir on a machine: command, supervisor, broker, settings, the Kafka log. Nothing imports this package."""
