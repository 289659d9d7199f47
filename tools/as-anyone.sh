#!/bin/sh
# Runs a command in this folder. Tests start programs as other users, who cannot enter a clone below /root: then the
# command sees the folder at /mnt, through a bind mount in a mount namespace of its own.
set -eu
if setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$PWD/pyproject.toml"; then
    exec "$@"
fi
exec unshare --mount --propagation private sh -c \
    'mount --bind "$PWD" /mnt && cd /mnt && PYTHONPATH=/mnt/src exec "$@"' sh "$@"
