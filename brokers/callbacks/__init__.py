"""The outbox of callbacks: who wants to be called (`targets`), what waits to be told (`queue`), and
the loop that tells it (`loop`)."""
