"""`pm-mined show`: its command is loaded at the start, all else when it runs."""
