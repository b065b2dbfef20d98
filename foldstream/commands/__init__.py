"""The commands of `foldstream`: a file each, with `arguments(parser)` and `run(args)`; `foldstream.cli` has the table.

Beside them stand `talk` and `named` (what commands share), `running/` (rooms of `run`) and `watching/` (of `watch`).
"""
