"""``make bench``: how fast, how small, against what a site runs today. README.md in this folder tells how it works."""
