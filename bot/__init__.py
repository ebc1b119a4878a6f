"""The Discord side: who asks, in what order, and what they see. Never torch."""
