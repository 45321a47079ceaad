#!/usr/bin/env bash
# An archive in which every picture is known to come back well: each small picture is restored at once, and where that
# falls short of MIN_DB (PSNR on Y), or irn cannot make it small, the original itself is kept. ARCHIVE/journal.jsonl has
# a line for each picture of each run. Run it again to add what is missing and to renew what has changed.
# usage: archive.sh PHOTOS ARCHIVE [MIN_DB]
set -euo pipefail
photos=$1 archive=$2 min_db=${3:-30}

mkdir -p "$archive"
outcomes=$(mktemp)
trap 'rm -f "$outcomes"' EXIT
irn downscale "$photos" -o "$archive" --min-psnr "$min_db" --on-artifact fail --update --json |
  tee -a "$archive/journal.jsonl" >"$outcomes" ||
  [ $? -eq 1 ] # some fell short, or could not be read: they are copied below

python3 - "$photos" "$archive" "$outcomes" <<'PYTHON'
import json, shutil, sys
from pathlib import Path

photos, archive, outcomes = map(Path, sys.argv[1:])
for outcome in map(json.loads, outcomes.open()):
    if outcome["status"] == "done" or outcome["code"] in ("exists", "missing"):
        continue
    source = Path(outcome["source"])
    copy = archive / source.relative_to(photos)
    if copy.exists() and copy.stat().st_mtime >= source.stat().st_mtime:
        continue
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, copy)
    print(f"kept as it is: {source}: {outcome['reason']}")
PYTHON
