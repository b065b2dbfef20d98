"""The implementations of `eventstore.store`: postgres, and memory, its twin for tests and small programs."""
