"""The ways to publish there are. One file each; `local` serves previews from this machine."""
