#!/usr/bin/env bash
# A gallery of small pictures, each of which is known to come back well: 4 times smaller where that restores at MIN_DB
# (PSNR on Y) or better, else 2 times smaller, else the photograph as it is. What cannot be read is named, and the rest
# is done. Run it again to add what is missing and to renew what has changed.
# usage: gallery.sh PHOTOS GALLERY [MIN_DB]
set -euo pipefail

irn downscale -o "$2" --min-psnr "${3:-34}" --scales 4,2 --otherwise copy --on-artifact fail --update -- "$1"
