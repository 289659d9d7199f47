"""The asynchronous client. ``client/sync`` is made from these files by ``tools/make_sync.py``; change them here."""
