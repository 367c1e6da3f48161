"""What travels over NATS, and how."""
