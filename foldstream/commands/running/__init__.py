"""The rooms of `foldstream run`.

child     the job: its start, its streams, its signals, its end
tape      bytes -> events (pure)
tracker   what is to be told to the server
delivery  the telling, in a thread of its own
"""
