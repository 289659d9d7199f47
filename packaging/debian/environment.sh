#!/bin/sh
# environment.sh TREE LIB: the rest of the virtual environment in TREE/LIB, and the program in it.
set -eu
lib="$1/$2"
mkdir -p "$lib/bin" "$1/usr/bin"
ln -s /usr/bin/python3 "$lib/bin/python3"
ln -s python3 "$lib/bin/python"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$lib/pyvenv.cfg"
# -I: neither the caller's environment nor the folder it stands in decides what root's programs import.
cat >"$lib/bin/hipercow-slurm" <<PROGRAM
#!/$2/bin/python3 -I
import sys

from hipercow_slurm.cli.main import main

sys.exit(main())
PROGRAM
chmod 755 "$lib/bin/hipercow-slurm"
ln -s "../lib/hipercow-slurm/bin/hipercow-slurm" "$1/usr/bin/hipercow-slurm"
