"""What survives a restart. One writer."""
