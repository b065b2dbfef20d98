"""The buses there are: redis (between processes) and memory (its twin within one)."""
