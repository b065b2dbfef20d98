"""The ways to build there are. One file each; `static` needs nothing but this Python."""
