"""The planners there are. One file each; `template` needs no network and no key."""
