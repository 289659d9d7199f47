"""The blocking client, made from ``client/aio`` by ``tools/make_sync.py``; only ``means.py`` is written by hand."""
