"""Callbacks on their way out: `sender` makes the request (`content`, `signatures`), `transport`
sends it to an address that `guard` allows, `service` keeps the outbox's loop going."""
