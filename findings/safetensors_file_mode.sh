#!/usr/bin/env bash
# safetensors 0.8.0: `save_file` writes a temporary file and renames it. Three things follow that 0.7.0 does not do:
#   1. A new file has mode 0600, whatever the umask says (0.7.0: 0644 under umask 022).
#   2. A file that was there with mode 0644 has mode 0600 afterwards, and a new inode (0.7.0 keeps both).
#   3. A symbolic link is replaced by a file, and its target keeps the old tensors (0.7.0 writes through the link).
# So a model that one user saves cannot be served by another, though the JSON files beside it can be read.
# `save`, which returns bytes, is not affected.
# Seen on Linux, Python 3.11, numpy 2.4.6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env

cat > look.py <<'PYTHON'
import os
import stat
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

os.umask(0o022)
old, new = {"x": np.zeros(3, np.float32)}, {"x": np.ones(3, np.float32)}
mode = lambda name: oct(stat.S_IMODE(os.stat(name).st_mode))
work = sys.argv[1]
os.mkdir(work)
os.chdir(work)

save_file(old, "fresh")
open("present", "wb").close()
os.chmod("present", 0o644)
inode = os.stat("present").st_ino
save_file(old, "present")
save_file(old, "target")
os.symlink("target", "link")
save_file(new, "link")
print(mode("fresh"), mode("present"), os.stat("present").st_ino == inode, os.path.islink("link"), load_file("target")["x"][0])
PYTHON

look() {
  env/bin/pip install -q --disable-pip-version-check "safetensors==$1" numpy==2.4.6
  seen=$(env/bin/python look.py "work-$1")
  echo "safetensors $1: new file, file that was there, same inode, still a link, target's value: $seen"
  test "$seen" = "$2" || { echo "changed: expected $2"; exit 1; }
}
look 0.7.0 "0o644 0o644 True True 1.0"
look 0.8.0 "0o600 0o600 False False 0.0"
