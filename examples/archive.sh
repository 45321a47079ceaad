#!/usr/bin/env bash
# An archive in which every picture is known to come back well: each small picture is restored at once, and where that
# falls short of MIN_DB (PSNR on Y), or irn cannot read it, the original itself is kept. What became of each stands in
# ARCHIVE/journal.jsonl. Run it again to add what is missing.
# usage: archive.sh PHOTOS ARCHIVE [MIN_DB]
set -euo pipefail
photos=$1 archive=$2 min_db=${3:-30}

mkdir -p "$archive"
irn downscale "$photos" -o "$archive" --min-psnr "$min_db" --on-artifact fail --skip-existing --json \
  >"$archive/journal.jsonl" ||
  [ $? -eq 1 ] # some fell short, or could not be read: they are copied below

python3 - "$photos" "$archive" <<'PYTHON'
import json, shutil, sys
from pathlib import Path

photos, archive = map(Path, sys.argv[1:])
for line in (archive / "journal.jsonl").open():
    outcome = json.loads(line)
    if not outcome["outputs"] and not outcome["reason"].endswith("exists already"):
        copy = archive / Path(outcome["source"]).relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(outcome["source"], copy)
        print(f"kept as it is: {outcome['source']}: {outcome['reason']}")
PYTHON
